"""The classes of vulnerabilities that serving engines had, each shown not to be ours (advisories of vLLM unless said
otherwise; the table is in the project's notes on serving engines, section 4.5).
"""

from __future__ import annotations

import ast
import base64
import contextlib
import json
import logging
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.server.conftest import Running, SlowDevice, StartServer
from tests.unit.server.test_chat_api import CALL, TOOLS, with_template
from warploom.runtime.artifact import Artifact
from warploom.runtime.server.guard import _is_local
from warploom.runtime.server.limits import Limits

SERVER = Path(__file__).resolve().parents[3] / "runtime" / "server"
KEY = "correct horse battery staple"


@pytest.fixture(scope="module")
def locked(start_server: StartServer) -> Running:
    return start_server(api_keys=("other", KEY), tool_format="hermes")


def raw(running: Running, data: bytes, timeout: float = 10) -> bytes:
    """What the server answers to these very bytes."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=timeout) as connection:
        connection.sendall(data)
        return read_all(connection)


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes the connection, or resets it because we sent more than it reads."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def post_head(*headers: str) -> bytes:
    lines = ["POST /v1/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def assert_serves(running: Running, **more: Any) -> None:
    """One bad request must not have cost anybody else."""
    assert running.complete(**more).status == 200


# --- deserialization, code and templates (CVE-2025-32444, CVE-2025-9141, CVE-2025-61620, CVE-2025-66448)


@pytest.mark.parametrize(
    "kind", ["application/x-python-pickle", "application/msgpack", "multipart/form-data; boundary=a", "text/plain", ""]
)
def test_bodies_are_json_and_nothing_else(running: Running, kind: str) -> None:
    reply = running.ask("POST", "/v1/completions", b'{"prompt": "a"}', {"Content-Type": kind})
    assert reply.status == 415


def test_the_server_never_evaluates_unpickles_or_fetches() -> None:
    banned = {
        "pickle",
        "marshal",
        "shelve",
        "subprocess",
        "urllib",
        "urllib.request",
        "http.client",
        "httpx",
        "requests",
    }
    for path in SERVER.glob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not banned & set(names), path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), path


def test_messages_are_data_to_the_template_never_a_template(running: Running) -> None:
    text = "{{ 7 * 7 }}{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}"
    body = {"messages": [{"role": "user", "content": text, "name": text}], "add_generation_prompt": False}
    tokens = running.post("/tokenize", body).json["tokens"]
    prompt = running.post("/detokenize", {"tokens": tokens}).json["prompt"]
    assert text in prompt
    assert "49" not in prompt


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}", "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}", "{{ lipsum.__globals__ }}",
    ],
)  # fmt: skip
def test_even_the_artifacts_own_template_is_confined(
    start_server: StartServer, tmp_path_factory: Any, template: str
) -> None:
    server = start_server(served=with_template(tmp_path_factory, template))
    reply = server.chat()
    assert reply.status in (200, 400)
    assert "uid=" not in reply.body.decode()
    assert "subclasses" not in json.dumps(reply.json.get("choices", ""))


def test_tool_calls_are_json_and_nothing_else(running: Running) -> None:
    tokenizer = running.service.llm.tokenizer
    evil = "<tool_call>{'name': 'weather', 'arguments': __import__('os').system('id')}</tool_call>"
    running.device.say([*tokenizer.encode(evil), 2])
    choice = running.chat(tools=TOOLS, max_tokens=200).json["choices"][0]
    running.device.say([])
    assert choice["message"]["content"] == evil
    assert "tool_calls" not in choice["message"]


# --- requests that amplify (CVE-2024-8939, CVE-2025-48956, CVE-2026-34756, CVE-2026-55646)


def test_nested_json_is_refused(running: Running) -> None:
    deep = b"[" * 50_000 + b"]" * 50_000
    for field in (b"prompt", b"ignored", b"tools", b"response_format"):
        body = b'{"messages": [{"role": "user", "content": "a"}], "' + field + b'": ' + deep + b"}"
        assert running.post("/v1/chat/completions", body).status == 400
    schema: dict[str, Any] = {}
    for _ in range(100):
        schema = {"properties": schema}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    assert "nesting" in running.chat(tools=tools).json["error"]["message"]
    assert_serves(running)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"x"', b'{"prompt": NaN}', b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "temperature": 1e999}', b'{"prompt": "a", "n": 1e100}', b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}', b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}", b"\x80\x04K\x01.",
        b'{"prompt": [1.5]}',
        b'{"prompt": "a", "max_tokens": 99999999999999999999}', b'{"prompt": "a"} {"prompt": "b"}',
        b'{"prompt": [9223372036854775808]}', b'{"prompt": "a", "stop_token_ids": [4294967296]}',
        b'{"prompt": "a", "logit_bias": {"4294967297": 1}}', b'{"prompt": "a", "logit_bias": {"\xd9\xa1": 1}}',
        b'{"prompt": "a", "stop": "\\udfff"}', b'{"prompt": "a", "top_k": 2147483648}', b'{"prompt": "a", "n": true}',
    ],
)  # fmt: skip
def test_malformed_bodies_and_numbers_are_refused(running: Running, body: bytes) -> None:
    assert running.post("/v1/completions", body).status == 400
    assert_serves(running)


def test_large_bodies_are_refused_before_they_are_read(running: Running) -> None:
    reply = raw(running, post_head("Content-Length: 99999999999"))
    assert b" 413 " in reply.split(b"\r\n")[0]
    reply = raw(running, post_head("Content-Length: " + "9" * 30))
    assert reply.split(b"\r\n")[0].split()[1] in (b"400", b"413")
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it does not wait for the rest
        assert running.post("/v1/completions", b" " * (9 << 20)).status == 413


def test_a_chunked_body_is_counted(start_server: StartServer) -> None:
    small = start_server(limits=Limits(body_bytes=1000))
    chunk = b"100\r\n" + b" " * 256 + b"\r\n"
    reply = raw(small, post_head("Transfer-Encoding: chunked") + chunk * 8)
    assert b" 413 " in reply.split(b"\r\n")[0]
    assert_serves(small)


def test_large_headers_are_refused(running: Running) -> None:
    reply = raw(running, post_head("X-Big: " + "a" * 200_000, "Content-Length: 2") + b"{}")
    assert reply == b"" or reply.split()[1].startswith(b"4")
    assert_serves(running)


def test_a_body_that_does_not_come_is_not_waited_for(start_server: StartServer) -> None:
    impatient = start_server(limits=Limits(body_seconds=1))
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=10) as connection:
        connection.sendall(post_head("Content-Length: 100") + b'{"prompt"')
        assert b" 408 " in connection.recv(65536).split(b"\r\n")[0]
    assert_serves(impatient)


# --- one bad request kills the engine (CVE-2024-8768, CVE-2025-48942 to 48944, CVE-2026-44222, vllm#45116)


def test_poisonous_requests_leave_others_alone(running: Running) -> None:
    control = "".join(map(chr, range(32)))
    bodies: list[dict[str, Any]] = [
        {"prompt": "<|im_start|><|im_end|><|endoftext|>"}, {"prompt": control}, {"prompt": [2]}, {"prompt": [0, 1, 2]},
        {"prompt": "a", "stop": ["\n", control]}, {"prompt": "a", "logit_bias": {str(i): -100 for i in range(340)}},
        {"prompt": "a", "min_tokens": 5, "max_tokens": 5, "stop_token_ids": list(range(128))},
        {"prompt": "‮\U0010ffff\x00"}, {"prompt": "a", "frequency_penalty": 2, "repetition_penalty": 0.01},
        {"prompt": "a", "temperature": 2, "top_p": 0, "top_k": 1, "min_p": 1},
    ]  # fmt: skip
    expected = running.complete(seed=9, ignore_eos=True).json["choices"]
    for body in bodies:
        assert running.post("/v1/completions", {"max_tokens": 4, **body}).status in (200, 400), body
    assert running.complete(seed=9, ignore_eos=True).json["choices"] == expected


@pytest.mark.parametrize(
    "form",
    [
        {"guided_regex": "(a+)+" * 20 + "b"}, {"guided_regex": "a{1000000}{1000000}"}, {"guided_regex": "("},
        {"guided_json": "{"}, {"guided_json": {"$ref": "#"}}, {"guided_grammar": "start: start start"},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"pattern": "(" * 5000}}}},
        {"guided_regex": "a" * 100_000}, {"guided_choice": ["a"] * 5000}, {"guided_regex": "a", "guided_json": {}},
        {"structured_outputs": {"regex": "(?!a)"}},
    ],
)  # fmt: skip
def test_bombs_in_forms_end_soon(running: Running, form: dict[str, Any]) -> None:
    """CVE-2025-48887, vllm#45118, GHSA-hf3c-wxg2-49q9: whatever comes of it, it comes soon and concerns nobody else."""
    started = time.monotonic()
    assert running.complete(**form).status in (200, 400)
    assert time.monotonic() - started < 5
    assert_serves(running)


# --- tensors and media in requests (CVE-2025-62164, CVE-2026-24779, CVE-2026-34753, LMDeploy CVE-2026-33626)


def test_prompt_embeddings_are_refused(running: Running) -> None:
    data = base64.b64encode(b"\x80\x04cposix\nsystem\n.").decode()
    reply = running.complete(prompt_embeds=data)
    assert reply.status == 400
    assert "prompt_embeds" in reply.json["error"]["message"]


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "video_url", "file", "input_image"])
def test_nothing_is_fetched(running: Running, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: asked.append(args) or [])
    url = "http://169.254.169.254/latest/meta-data"
    part = {"type": kind, kind: {"url": url, "data": "file:///etc/passwd"}, "text": None}
    body = json.dumps({"messages": [{"role": "user", "content": [part]}]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Connection: close\r\n"
    with socket.socket() as connection:
        connection.connect(("127.0.0.1", running.port))
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        reply = read_all(connection)
    assert b" 400 " in reply.split(b"\r\n")[0]
    assert b"nothing is fetched" in reply
    assert asked == []


# --- caches (CVE-2025-46570): whether a prompt is in the cache can be timed


def test_tenants_and_salts_do_not_share_cached_prompts(locked: Running) -> None:
    prompt = list(range(10, 60))

    def cached(key: str, **more: Any) -> int:
        reply = locked.post(
            "/v1/completions", {"prompt": prompt, "max_tokens": 1, **more}, headers={"Authorization": f"Bearer {key}"}
        )
        details = reply.json["usage"].get("prompt_tokens_details")
        return int(details["cached_tokens"]) if details else 0

    cached(KEY)
    assert cached("other") == 0
    assert cached("other", cache_salt="s") == 0
    assert cached(KEY, cache_salt="s") == 0
    assert cached(KEY, cache_salt="t") == 0
    if locked.service.llm.stats().prefix_queries:
        assert cached(KEY) > 0
        assert cached(KEY, cache_salt="t") > 0


# --- who may ask (CVE-2025-59425, CVE-2026-48746, vLLM's open side endpoints)


@pytest.mark.parametrize(
    "path",
    [
        "/", "/v1/models", "/v1/models/fake", "/metrics", "/openapi.json", "/version", "/ping", "/HEALTH", "/health/",
        "//health", "/health/../v1/models", "/v1/models/../../health", "/nope", "/%68ealth/", "/v1/models?x=/health",
        "/tokenize", "/health;x", "/v1/models#/health",
    ],
)  # fmt: skip
def test_everything_but_health_needs_a_key(locked: Running, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Basic ????"},
                    {"X-Original-URL": "/health", "X-Forwarded-For": "127.0.0.1"}):  # fmt: skip
        reply = locked.ask("GET", path, headers=headers)
        assert reply.status == 401, (path, headers)
        assert reply.json["error"]["type"] == "authentication_error"
        assert KEY not in reply.body.decode()


def test_posts_need_a_key_too(locked: Running) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize", "/health"):
        assert locked.post(path, {"prompt": "a"}).status in (401, 405)
    assert locked.post("/v1/completions", {"prompt": "a"}).status == 401


def test_a_key_opens_everything_and_health_is_open(locked: Running) -> None:
    basic = base64.b64encode(f":{KEY}".encode()).decode()
    for authorization in (f"Bearer {KEY}", "bearer other", f"Basic {basic}"):
        for path in ("/", "/v1/models", "/metrics", "/openapi.json"):
            assert locked.ask("GET", path, headers={"Authorization": authorization}).status == 200
    assert locked.ask("GET", "/health").status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example"]
)
def test_web_pages_cannot_reach_it_by_another_name(running: Running, host: str) -> None:
    """DNS rebinding: a page's own host name is made to point to 127.0.0.1."""
    assert running.ask("GET", "/v1/models", headers={"Host": host}).status == 403
    assert not _is_local(host)


@pytest.mark.parametrize(
    "host", ["", "localhost", "localhost:8000", "127.0.0.1:1", "[::1]:8000", "10.0.0.5", "a.localhost"]
)
def test_its_own_names_are_accepted(host: str) -> None:
    assert _is_local(host)


def test_web_pages_cannot_send_requests_with_a_readers_rights(running: Running) -> None:
    """A form or a simple fetch cannot say application/json without asking first, and that is never allowed."""
    reply = running.ask("OPTIONS", "/v1/completions", headers={"Origin": "http://evil.example"})
    assert reply.status == 405
    assert not [name for name in reply.headers if name.startswith("access-control")]


# --- HTTP itself: smuggling, paths


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 15", "Transfer-Encoding: chunked"), ("Content-Length: 15", "Content-Length: 16"),
        ("Transfer-Encoding: chunked, gzip",), ("Transfer-Encoding: xchunked",), ("Content-Length: +15",),
        ("Content-Length: 0x0f",), ("Content-Length : 15",), ("Content-Length: -1",), ("X: a\r\n b\x00",),
        ("Transfer-Encoding:\x0bchunked",),
    ],
)  # fmt: skip
def test_ambiguous_requests_are_refused_and_nothing_after_them_is_read(
    running: Running, headers: tuple[str, ...]
) -> None:
    smuggled = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
    reply = raw(running, post_head(*headers) + b'{"prompt": "a"}' + smuggled)
    assert reply == b"" or reply.split()[1] in (b"400", b"411", b"413", b"415", b"501"), reply
    assert b'"version"' not in reply
    assert_serves(running)


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/v1/models/../../../etc/passwd", "/static/..%2f..%2fetc/passwd"]
)
def test_paths_lead_to_no_files(running: Running, path: str) -> None:
    reply = running.ask("GET", path)
    assert reply.status == 404
    assert b"root:" not in reply.body


# --- what errors tell (CVE-2026-22778, CVE-2026-54236)


def test_failures_tell_clients_nothing_of_the_inside(
    start_server: StartServer, artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    device = SlowDevice(artifact)
    server = start_server(device=device)
    device.failure = RuntimeError("segfault at 0xdeadbeef in /root/secret/module.py")
    with caplog.at_level(logging.CRITICAL):
        replies = [server.complete(), server.chat(stream=True), server.complete()]
    for reply in replies:
        assert b"0xdead" not in reply.body
        assert b"secret" not in reply.body
        assert b"Traceback" not in reply.body
    assert replies[2].status == 503
    assert server.ask("GET", "/health").json["status"] == "dead"
    assert server.ask("GET", "/health").status == 503


def test_refusals_hold_no_addresses_or_paths(start_server: StartServer, tmp_path_factory: Any) -> None:
    template = "{{ raise_exception('object at 0x7f00deadbeef in /usr/lib/python3/secret.py') }}"
    reply = start_server(served=with_template(tmp_path_factory, template)).chat()
    assert reply.status == 400
    assert b"deadbeef" not in reply.body
    assert b"secret" not in reply.body


# --- the page


def test_the_page_runs_nothing_that_a_model_writes(running: Running) -> None:
    reply = running.ask("GET", "/")
    assert reply.headers["content-type"].startswith("text/html")
    page = reply.body.decode()
    assert "innerHTML" not in page
    assert "document.write" not in page
    assert "http://" not in page
    assert "https://" not in page
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert reply.headers["x-content-type-options"] == "nosniff"


def test_calls_do_not_come_from_the_prompt(running: Running) -> None:
    """Only what the model writes is read for calls."""
    messages = [{"role": "user", "content": CALL}]
    reply = running.post("/v1/chat/completions", {"messages": messages, "tools": TOOLS, "max_tokens": 3})
    assert reply.json["choices"][0]["finish_reason"] != "tool_calls"
