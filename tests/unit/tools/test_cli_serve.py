"""`warploom serve` as a process: it starts, answers, ends in good order, and refuses what it cannot do."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.tools.conftest import RunCLI

Start = Callable[..., "tuple[subprocess.Popen[str], int]"]


@pytest.fixture
def start(tiny_artifact: Path) -> Iterator[Start]:
    """Starts servers of the tiny artifact; gives the process and its port."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environment: str) -> tuple[subprocess.Popen[str], int]:
        command = [
            sys.executable,
            "-W",
            "error",
            "-m",
            "warploom.tools.cli",
            "serve",
            str(tiny_artifact),
            "--port",
            "0",
        ]
        process = subprocess.Popen(
            [*command, "--threads", "1", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        processes.append(process)
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("serving tiny at http://127.0.0.1:"), line + process.stderr.read()
        return process, int(line.rpartition(":")[2])

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def ask(port: int, body: Any, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        data = json.dumps(body).encode()
        connection.request("POST", "/v1/completions", data, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        response.body = response.read()  # type: ignore[attr-defined]
        return response


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


def test_it_answers_until_it_is_told_to_end(start: Start) -> None:
    process, port = start()
    reply = ask(port, {"prompt": "a", "max_tokens": 4, "ignore_eos": True})
    assert reply.status == 200
    assert json.loads(reply.body)["usage"]["completion_tokens"] == 4  # type: ignore[attr-defined]
    process.send_signal(signal.SIGTERM)
    assert end(process) == (0, "")


def test_an_unfinished_stream_is_finished_before_the_end(start: Start) -> None:
    process, port = start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = {"prompt": "a", "max_tokens": 100, "ignore_eos": True, "stream": True}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    with contextlib.closing(connection), connection.getresponse() as response:
        assert response.readline().startswith(b"data: {")
        process.send_signal(signal.SIGTERM)
        rest = response.read()
    assert b'"finish_reason":"length"' in rest
    assert rest.endswith(b"data: [DONE]\n\n")
    assert end(process) == (0, "")


def test_a_killed_server_leaves_no_client_waiting(start: Start) -> None:
    process, port = start()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = {"prompt": "a", "max_tokens": 120, "ignore_eos": True, "stream": True, "n": 8}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    with contextlib.closing(connection), connection.getresponse() as response:
        response.readline()
        process.kill()
        with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
            response.read()
    assert end(process)[0] == -signal.SIGKILL
    _, port = start()  # nothing that the first one left stands in the way
    assert ask(port, {"prompt": "a", "max_tokens": 1}).status == 200


def test_keys_come_from_the_environment_or_a_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("one\n\ntwo\n")
    _, port = start("--api-key-file", str(tmp_path / "keys"), WARPLOOM_API_KEY="three")
    assert ask(port, {"prompt": "a"}).status == 401
    for key in ("one", "two", "three"):
        assert ask(port, {"prompt": "a", "max_tokens": 1}, Authorization=f"Bearer {key}").status == 200


def test_limits_can_be_set(start: Start) -> None:
    _, port = start("--limit", "prompts=1", "--limit", "body_bytes=1000")
    assert ask(port, {"prompt": ["a", "b"]}).status == 400
    assert ask(port, {"prompt": "a" * 2000}).status == 413


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--limit", "prompts=-1"], "A limit is not valid"), (["--limit", "nonsense=1"], "A limit is not valid"),
        (["--api-key-file", "/nowhere"], "The API keys /nowhere cannot be read"),
        (["--port", "99999"], "cannot listen"),
        (["--host", "203.0.113.1"], "cannot listen"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_fix(
    run_cli: RunCLI, tiny_artifact: Path, arguments: list[str], told: str
) -> None:
    done = run_cli("serve", tiny_artifact, *arguments)
    assert done.returncode == 2
    assert told in done.stderr
