"""The benchmarks of serving: loads are what their names say, and runs count every token."""

from __future__ import annotations

import argparse
import asyncio
import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from tests.runtime_fakes import FakeDevice, fake_artifact
from warploom.errors import InvalidRequestError
from warploom.runtime import served_model
from warploom.runtime.sampling_params import SamplingParams
from warploom.tools import bench_offline, bench_serve
from warploom.tools.cli import main
from warploom.tools.latency import spread
from warploom.tools.request_times import OverHttp, RequestTimes
from warploom.tools.timed_device import TimedStep
from warploom.tools.workload import Load, Work, make_work, parse_load


def test_loads_are_read_by_their_names() -> None:
    assert parse_load("128/1024x512") == Load("128/1024", (128, 1024), 512)
    assert parse_load("sharegpt x 10") == Load("sharegpt", None, 10)
    for wrong in ("128", "a/bx3", "1/2xy", "x", "0/8x4", "8/0x4", "8/8x0", "8/8x-1", "sharegptx0"):
        with pytest.raises(argparse.ArgumentTypeError, match="not of the form"):
            parse_load(wrong)


def test_fixed_lengths_are_exact_and_the_same_each_time() -> None:
    first, again = (make_work(parse_load("5/7x3"), 100, 64, temperature=0, seed=1) for _ in range(2))
    assert first == again
    assert [(len(one.prompt), one.params.max_tokens, one.params.ignore_eos) for one in first] == [(5, 7, True)] * 3
    with pytest.raises(InvalidRequestError, match="does not fit"):
        make_work(parse_load("5/70x3"), 100, 64, temperature=0, seed=1)


def test_chat_like_lengths_have_sharegpt_s_means() -> None:
    work = make_work(parse_load("sharegptx4000"), 100, 4096, temperature=0, seed=0)
    assert np.mean([len(one.prompt) for one in work]) == pytest.approx(215, rel=0.15)
    assert np.mean([one.params.max_tokens or 0 for one in work]) == pytest.approx(198, rel=0.15)


def test_spread_of_nothing_is_zero() -> None:
    assert spread([]).p99 == 0
    assert (spread([1.0, 3.0]).mean, spread([1.0, 3.0]).p50) == (2, 2)


def test_offline_counts_every_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = fake_artifact(tmp_path / "a")

    def open_fake(*_: object) -> FakeDevice:
        return FakeDevice(num_pages=100, vocab_size=artifact.manifest.vocab_size)

    monkeypatch.setattr(bench_offline, "open_device", open_fake)
    command = ["bench", "offline", str(artifact.path), "--load", "9/5x6", "--load", "3/2x2"]
    assert main([*command, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["loads"]
    assert (first["requests"], second["requests"]) == (6, 2)
    assert first["output_tokens_per_second"] * first["seconds"] == pytest.approx(30)
    assert first["total_tokens_per_second"] * first["seconds"] == pytest.approx(84)
    assert first["ttft"]["p50"] <= first["ttft"]["p99"]
    assert main(command) == 0
    assert "9/5" in capsys.readouterr().out


def test_steps_are_summed_up_by_what_they_computed() -> None:
    steps = [
        TimedStep(3, 3, 3, 1.0, 0.1, 0.01),
        TimedStep(4, 4, 4, 3.0, 0.3, 0.01),
        TimedStep(4, 100, 4, 2.0, 0.0, 0.01),
        TimedStep(2, 12, 12, 0.0, 0.0, 0.01),
    ]
    decode, prompt, drafts = bench_offline.step_rows(steps)
    assert drafts.steps == "with drafts, <= 16 tokens"
    assert (decode.steps, decode.number, decode.each) == ("decode <= 4", 2, 2.0)
    assert decode.exposed == pytest.approx(0.2)
    assert prompt.steps == "with prompts, <= 128 tokens"
    assert prompt.of_all == pytest.approx(1 / 3)


class Scripted:
    """Answers with pieces at known times."""

    def __init__(self) -> None:
        self.at_once = self.most = 0

    async def answer(self, work: Work) -> RequestTimes:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        return RequestTimes(0.0, len(work.prompt), [(1.0, 1), (2.0, 2), (4.0, 1)])


def test_times_are_what_their_definitions_say() -> None:
    times = RequestTimes(10.0, 3, [(10.5, 1), (11.0, 2), (12.0, 1)])
    assert (times.ttft, times.total, times.num_tokens, times.gaps) == (0.5, 2.0, 4, [0.5, 1.0])
    assert times.tpot == pytest.approx(0.5)
    bounds = bench_serve.Bounds(ttft=0.5, tpot=0.4)
    row = bench_serve.serve_row(2.0, [times, RequestTimes(0.0, 1, [], "gone")], 4.0, bounds)
    assert (row.requests, row.failed, row.goodput, row.output_tokens_per_second) == (2, 1, 0.0, 1.0)
    assert bench_serve.serve_row(2.0, [times], 4.0, bench_serve.Bounds(0.5, 0.5)).goodput == 0.25


def test_arrivals_have_the_rate_and_concurrency_is_bounded() -> None:
    arrivals = bench_serve.arrival_times(50.0, 4000, 1)
    assert arrivals[0] == 0
    assert arrivals[-1] == pytest.approx(80, rel=0.1)
    assert bench_serve.arrival_times(float("inf"), 3, 1) == [0.0] * 3
    answerer = Scripted()
    work = make_work(parse_load("2/2x9"), 10, 10, temperature=0, seed=0)
    assert len(asyncio.run(bench_serve.send(answerer, work, [0.0] * 9, 3))) == 9
    assert answerer.most == 3


def test_serve_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = fake_artifact(tmp_path / "a")

    def open_fake(*_: object) -> FakeDevice:
        return FakeDevice(num_pages=100, vocab_size=artifact.manifest.vocab_size)

    monkeypatch.setattr(served_model, "open_device", open_fake)
    command = ["bench", "serve", str(artifact.path), "--load", "9/5x6", "--rate", "1000,inf"]
    assert main([*command, "--json", "--plot", str(tmp_path / "p.svg")]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["requests"], row["failed"]) for row in rows] == [(6, 0)] * 2
    assert all(row["output_tokens_per_second"] * row["seconds"] == pytest.approx(30) for row in rows)
    assert "until the first token" in (tmp_path / "p.svg").read_text()


EVENTS = b"".join(
    b"data: " + data + b"\n\n"
    for data in (
        b'{"choices": [{"text": "a"}], "usage": {"completion_tokens": 2}}',
        b'{"choices": [{"text": "b"}], "usage": {"completion_tokens": 3}}',
        b'{"choices": [], "usage": {"completion_tokens": 3}}',
        b"[DONE]",
    )
)


class Handler(BaseHTTPRequestHandler):
    """A server with one answer, and a failure for prompts of one token."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["stream_options"]["include_usage"]
        self.send_response(200 if len(body["prompt"]) > 1 else 429)
        self.end_headers()
        self.wfile.write(EVENTS)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_a_server_is_measured_over_http() -> None:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        answerer = OverHttp(f"http://127.0.0.1:{server.server_port}", "m", "key")
        good, refused = (Work(prompt, SamplingParams(max_tokens=3)) for prompt in ([1, 2], [1]))
        times = asyncio.run(answerer.answer(good))
        assert [number for _, number in times.pieces] == [2, 1]
        assert "429" in (asyncio.run(answerer.answer(refused)).error or "")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
