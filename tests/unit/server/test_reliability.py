"""What happens to everybody else: clients that leave, overload, hangs, failures, shutdown."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.unit.server.conftest import Reply, Running, SlowDevice, StartServer
from warploom.errors import EngineDeadError
from warploom.runtime.artifact import Artifact
from warploom.runtime.async_llm import AsyncLLM
from warploom.runtime.server.limits import Limits
from warploom.runtime.server.run import ServerOptions, bind, run
from warploom.runtime.server.service import Service
from warploom.tools.cli import build_parser

ENDLESS = {"prompt": "Once upon", "max_tokens": 200, "ignore_eos": True}


def wait_for(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def open_request(running: Running, **body: Any) -> http.client.HTTPConnection:
    """A request that was sent, with its answer unread."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
    data = json.dumps({**ENDLESS, **body}).encode()
    connection.request("POST", "/v1/completions", data, {"Content-Type": "application/json"})
    return connection


def read(connection: http.client.HTTPConnection) -> Reply:
    """The rest of the answer to an open request."""
    with connection.getresponse() as response:
        reply = Reply(response.status, {}, response.read())
    connection.close()
    return reply


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_forgotten_and_others_are_not_disturbed(
    start_server: StartServer, stream: bool
) -> None:
    running = start_server()
    alone = [running.complete(seed=seed, ignore_eos=True, max_tokens=40).json["choices"] for seed in range(4)]
    running.device.seconds = 0.002
    gone = [open_request(running, stream=stream, n=2) for _ in range(3)]
    wait_for(lambda: running.service.llm.stats().running > 0)
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(running.complete, seed=seed, ignore_eos=True, max_tokens=40) for seed in range(4)
        ]  # fmt: skip
        for connection in gone:
            connection.close()
        assert [one.result().json["choices"] for one in asked] == alone
    running.device.seconds = 0
    running.wait_idle()
    assert b'answers_total{finished_reason="cancelled"}' in running.ask("GET", "/metrics").body


def test_a_client_that_leaves_in_the_queue_is_forgotten(start_server: StartServer) -> None:
    running = start_server()
    running.device.seconds = 0.02
    connections = [open_request(running) for _ in range(12)]
    wait_for(lambda: running.service.llm.stats().waiting + running.service.llm.stats().running >= 4)
    for connection in connections:
        connection.close()
    running.wait_idle()
    assert running.service.llm.stats().generation_tokens < 12 * 100


def test_overload_is_told_and_passes(start_server: StartServer) -> None:
    running = start_server(max_queue=2)
    running.device.go.clear()
    with ThreadPoolExecutor(30) as pool:
        asked = [pool.submit(running.complete, ignore_eos=True, seed=1) for _ in range(30)]
        wait_for(lambda: sum(one.done() for one in asked) >= 30 - running.service.llm.max_requests)
        refused = [one.result() for one in asked if one.done()]
        assert refused
        for reply in refused:
            assert reply.status == 429
            assert int(reply.headers["retry-after"]) >= 1
            assert reply.json["error"]["type"] == "rate_limit_error"
        assert running.ask("GET", "/health").status == 200
        running.device.go.set()
        accepted = [one.result() for one in asked if one.result().status == 200]
    assert len(accepted) == running.service.llm.max_requests
    assert len({json.dumps(reply.json["choices"]) for reply in accepted}) == 1
    assert running.complete().status == 200
    running.wait_idle()


def test_a_batch_is_queued_whole_or_not_at_all(start_server: StartServer) -> None:
    running = start_server(max_queue=2)
    running.device.go.clear()
    held = open_request(running)
    wait_for(lambda: running.service.llm.stats().running == 1)
    assert running.complete(prompt=["a"] * 6).status == 429
    running.device.go.set()
    assert read(held).status == 200
    assert running.complete(prompt=["a"] * 6).status == 200
    running.wait_idle()


def test_a_hung_step_turns_health_red_and_green_again(start_server: StartServer) -> None:
    """By default within 10 s; here the threshold is 0.5 s. The event loop goes on answering meanwhile."""
    running = start_server(health_seconds=0.5)
    assert running.ask("GET", "/health").json["status"] == "ok"
    running.device.go.clear()
    connection = open_request(running)
    started = time.monotonic()
    wait_for(lambda: running.ask("GET", "/health").status == 503)
    assert 0.4 < time.monotonic() - started < 2
    assert running.ask("GET", "/health").json["status"] == "hung"
    assert running.ask("GET", "/v1/models").status == 200
    assert float(metric(running, "warploom_heartbeat_age_seconds")) > 0.4
    running.device.go.set()
    assert read(connection).status == 200
    wait_for(lambda: running.ask("GET", "/health").status == 200)
    running.wait_idle()


def test_the_default_threshold_is_under_ten_seconds() -> None:
    args = build_parser("serve").parse_args(["serve", "artifact"])
    assert args.health_seconds + 1 < 10
    assert args.host == "127.0.0.1"


def test_a_device_that_fails_is_told_in_streams_and_by_health(start_server: StartServer) -> None:
    running = start_server()
    running.device.seconds = 0.01
    connection = open_request(running, stream=True)
    wait_for(lambda: running.service.llm.stats().generation_tokens > 3)
    running.device.failure = RuntimeError("broken")
    first, *_, last = read(connection).events
    assert first["choices"]
    assert last["error"]["code"] == 503
    assert running.ask("GET", "/health").json["status"] == "dead"
    assert running.complete().status == 503


def test_the_process_ends_when_the_device_has_failed(artifact: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    device = SlowDevice(artifact)
    device.failure = RuntimeError("broken")
    llm = AsyncLLM.load(artifact, device=device)
    service = Service(llm, model_name="fake", limits=Limits(), tool_format=None, health_seconds=8)
    listener = bind("127.0.0.1", 0)
    with ThreadPoolExecutor(1) as pool:
        running = Running(listener.getsockname()[1], service, device, None)  # type: ignore[arg-type]
        listener.listen()
        asked = pool.submit(running.complete)
        with pytest.raises(EngineDeadError, match="broken"):
            run(service, ServerOptions(), listener)
        assert asked.result().status == 503
    assert capsys.readouterr().err.startswith("serving fake at http://127.0.0.1:")


def test_a_tokenizer_that_fails_costs_one_request_only(start_server: StartServer) -> None:
    """The workers that tokenize: one crashes, one hangs, the others go on."""
    running = start_server()
    tokenizer, hang = running.service.llm.tokenizer, threading.Event()
    encode = tokenizer.encode

    def worker(text: str) -> list[int]:
        if text == "crash":
            raise RuntimeError("worker died at 0xdeadbeef")
        if text == "hang":
            hang.wait(20)
        return encode(text)

    tokenizer.encode = worker  # type: ignore[method-assign]
    expected = running.complete(seed=1).json["choices"]
    hung = [open_request(running, prompt="hang") for _ in range(2)]
    crashed = running.complete(prompt="crash")
    assert crashed.status == 500
    assert b"deadbeef" not in crashed.body
    assert running.complete(seed=1).json["choices"] == expected
    hung.pop().close()
    hang.set()
    assert read(hung.pop()).status == 200
    running.wait_idle()


def test_a_reader_that_is_slow_gets_everything(start_server: StartServer) -> None:
    running = start_server()
    whole = running.complete(seed=5, ignore_eos=True, max_tokens=100).json["choices"][0]["text"]
    connection = open_request(running, seed=5, stream=True, max_tokens=100)
    time.sleep(0.3)
    events = read(connection).events
    assert "".join(event["choices"][0]["text"] for event in events) == whole
    running.wait_idle()


def test_a_reader_that_reads_nothing_is_let_go(start_server: StartServer) -> None:
    """Its answers are far larger than what sockets hold."""
    running = start_server(limits=Limits(write_seconds=1))
    body = {**ENDLESS, "n": 30, "max_tokens": 240, "logprobs": 20, "stream": True}
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", running.port))
        data = json.dumps(body).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        wait_for(lambda: b'finished_reason="cancelled"' in running.ask("GET", "/metrics").body, 30)
    running.wait_idle()


def test_an_answer_that_takes_too_long_is_given_up(start_server: StartServer, artifact: Artifact) -> None:
    device = SlowDevice(artifact)
    device.seconds = 0.05
    running = start_server(device=device, limits=Limits(request_seconds=1))
    reply = running.complete(**{**ENDLESS, "stream": False})
    assert reply.status == 504
    assert running.complete(**{**ENDLESS, "stream": True}).events[-1]["error"]["code"] == 504
    device.seconds = 0
    running.wait_idle()


def test_shutdown_lets_the_unfinished_end_and_takes_no_more(start_server: StartServer) -> None:
    running = start_server(drain_seconds=20)
    expected = running.complete(**{**ENDLESS, "seed": 3}).json["choices"]
    running.device.seconds = 0.003
    connection = open_request(running, seed=3)
    idle = http.client.HTTPConnection("127.0.0.1", running.port, timeout=5)
    idle.request("GET", "/health")
    with idle.getresponse() as response:
        assert response.read()
    wait_for(lambda: running.service.llm.stats().running == 1)
    running.service.draining = running.server.should_exit = True
    wait_for(lambda: refuses(running))
    assert read(connection).json["choices"] == expected
    idle.close()


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_unfinished_when_the_time_is_over_ends_with_an_error(start_server: StartServer, stream: bool) -> None:
    running = start_server(drain_seconds=0.2)
    running.device.seconds = 0.01
    connection = open_request(running, stream=stream)
    wait_for(lambda: running.service.llm.stats().running == 1)
    running.service.draining = running.server.should_exit = True
    reply = read(connection)
    error = reply.events[-1]["error"] if stream else reply.json["error"]
    assert (error["code"], error["message"]) == (503, "The server is shutting down.")


def test_a_draining_server_refuses_with_retry_after(start_server: StartServer) -> None:
    running = start_server()
    running.service.draining = True
    reply = running.complete()
    assert reply.status == 503
    assert reply.headers["retry-after"]
    assert running.ask("GET", "/health").json["status"] == "draining"


def refuses(running: Running) -> bool:
    try:
        running.ask("GET", "/health", timeout=2)
    except OSError:
        return True
    return False


def metric(running: Running, name: str) -> str:
    lines = running.ask("GET", "/metrics").body.decode().splitlines()
    return next(line.split()[-1] for line in lines if line.startswith(name))


def test_every_answer_is_counted_by_its_status(start_server: StartServer) -> None:
    running = start_server(api_keys=("secret",))
    key = {"Authorization": "Bearer secret"}
    asked = [
        (200, "POST", "/v1/completions", {"prompt": "Once", "max_tokens": 1}, key),
        (400, "POST", "/v1/completions", {"prompt": "Once", "max_tokens": 0}, key),
        (400, "POST", "/v1/completions", {"prompt": ""}, key),
        (401, "POST", "/v1/completions", {"prompt": "Once"}, {}),
        (404, "POST", "/v1/completions", {"prompt": "Once", "model": "other"}, key),
        (405, "GET", "/v1/completions", None, key),
        (415, "POST", "/v1/completions", {"prompt": "Once"}, {**key, "Content-Type": "text/plain"}),
    ]
    for status, method, path, body, headers in asked:
        assert running.ask(method, path, body, headers).status == status
    text = running.ask("GET", "/metrics", headers=key).body.decode()
    for status in (200, 401, 404, 405, 415):
        assert f'warploom_http_requests_total{{path="/v1/completions",status="{status}"}} 1.0' in text
    assert 'warploom_http_requests_total{path="/v1/completions",status="400"} 2.0' in text


def test_metrics_have_our_names_and_vllms(start_server: StartServer) -> None:
    running = start_server()
    assert running.complete(ignore_eos=True, n=2).status == 200
    assert running.chat(ignore_eos=True, stream=True).status == 200
    running.wait_idle()
    text = running.ask("GET", "/metrics").body.decode()
    for line in (
        'warploom_answers_total{finished_reason="length"} 3.0',
        'vllm:request_success_total{finished_reason="length",model_name="fake"} 3.0',
        'warploom_http_requests_total{path="/v1/completions",status="200"} 1.0',
        "warploom_requests_running 0.0",
        'vllm:num_requests_running{model_name="fake"} 0.0',
        'vllm:num_requests_waiting{model_name="fake"} 0.0',
        'vllm:generation_tokens_total{model_name="fake"} 15.0',
        "warploom_time_to_first_token_seconds_count 3.0",
        'vllm:time_to_first_token_seconds_count{model_name="fake"} 3.0',
        'vllm:e2e_request_latency_seconds_bucket{le="+Inf",model_name="fake"} 3.0',
        'vllm:request_generation_tokens_sum{model_name="fake"} 15.0',
        'vllm:spec_decode_num_drafts_total{model_name="fake"} 0.0',
    ):
        assert line in text.splitlines(), line
    assert "vllm:kv_cache_usage_perc" in text
    assert "vllm:prompt_tokens_total" in text
