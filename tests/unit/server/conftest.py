"""A whole server on a fake device, in a thread of the test, reached through its socket."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime_fakes import FakeDevice, fake_artifact
from warploom.runtime.artifact import Artifact
from warploom.runtime.async_llm import AsyncLLM
from warploom.runtime.device import StepOutput
from warploom.runtime.server.limits import Limits
from warploom.runtime.server.run import Server, ServerOptions, bind, new_server
from warploom.runtime.server.service import Service
from warploom.runtime.step_batch import StepBatch

MODEL = "fake"


class SlowDevice(FakeDevice):
    """A device whose steps can be made to take their time, to hang until they are let go, or to give a known answer.

    Attributes:
        script: the tokens of the answer to the next request, which must run alone.
    """

    def __init__(self, artifact: Artifact, **limits: int) -> None:
        super().__init__(**{"num_pages": 400, "vocab_size": artifact.manifest.vocab_size, **limits})
        self.seconds = 0.0
        self.go = threading.Event()
        self.go.set()
        self.script: list[int] = []
        self._script_start: int | None = None

    def say(self, tokens: list[int]) -> None:
        self.script, self._script_start = tokens, None

    def run(self, batch: StepBatch) -> StepOutput:
        output = super().run(batch)
        if not self.script or batch.sampling is None:
            return output
        position = int(batch.sampling.sample_positions[0])
        if self._script_start is None:
            self._script_start = position
        place = min(position - self._script_start, len(self.script) - 1)
        return output._replace(tokens=np.array([self.script[place]], np.int32))

    def wait(self) -> None:
        time.sleep(self.seconds)
        self.go.wait(60)


@dataclass
class Reply:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The events of a stream, which must end with [DONE]."""
        *events, done, rest = self.body.decode().split("\n\n")
        assert done == "data: [DONE]"
        assert rest == ""
        return [json.loads(event.removeprefix("data: ")) for event in events]


@dataclass
class Running:
    """A server that runs."""

    port: int
    service: Service
    device: SlowDevice
    server: Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 30
    ) -> Reply:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, names, response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **more: Any) -> Reply:
        return self.ask("POST", path, body, **more)

    def complete(self, **body: Any) -> Reply:
        return self.post("/v1/completions", {"prompt": "Once upon", "max_tokens": 5, **body})

    def chat(self, **body: Any) -> Reply:
        messages = [{"role": "user", "content": "Once upon"}]
        return self.post("/v1/chat/completions", {"messages": messages, "max_tokens": 5, **body})

    def wait_idle(self) -> None:
        """Wait until nothing runs; then every page must be accounted for."""
        deadline = time.monotonic() + 20
        while (stats := self.service.llm.stats()).running or stats.waiting or stats.heartbeat_age:
            assert time.monotonic() < deadline, stats
            time.sleep(0.005)
        self.service.llm._engine.check()


StartServer = Callable[..., Running]


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return fake_artifact(tmp_path_factory.mktemp("server") / "artifact", max_context=256)


@pytest.fixture(scope="module")
def start_server(artifact: Artifact) -> Iterator[StartServer]:
    """Starts servers, each ended with the module's tests."""
    ends: list[Callable[[], None]] = []

    def start(
        *,
        device: SlowDevice | None = None,
        served: Artifact = artifact,
        max_queue: int = 32,
        hang_timeout_s: float = 60,
        health_seconds: float = 8.0,
        api_keys: tuple[str, ...] = (),
        drain_seconds: float = 5.0,
        tool_format: Any = "hermes",
        limits: Limits | None = None,
    ) -> Running:
        device = device or SlowDevice(served)
        llm = AsyncLLM.load(served, device=device, max_queue=max_queue, hang_timeout_s=hang_timeout_s)
        service = Service(
            llm, model_name=MODEL, limits=limits or Limits(), tool_format=tool_format, health_seconds=health_seconds
        )
        listener = bind("127.0.0.1", 0)
        server = new_server(service, ServerOptions(api_keys=api_keys, drain_seconds=drain_seconds), listener)

        async def serve() -> None:
            await server.serve([listener])
            await llm.close()
            service.close()

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()

        def end() -> None:
            device.go.set()
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()

        ends.append(end)
        while not server.started:
            time.sleep(0.005)
        return Running(listener.getsockname()[1], service, device, server)

    yield start
    for end in ends:
        end()


@pytest.fixture(scope="module")
def running(start_server: StartServer) -> Running:
    """A server for tests that leave it as it was."""
    return start_server()


@pytest.fixture
def quiet(running: Running) -> Iterator[None]:
    """Checks that a test leaves no request behind."""
    yield
    running.wait_idle()


@pytest.fixture(scope="session")
def no_chat_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return fake_artifact(Path(tmp_path_factory.mktemp("server")) / "plain", max_context=64, chat=False)
