"""What a streamed event costs: a server over a device that computes nothing, read by clients in another process.

    python bench/http_events.py                       # 512 streams, 64 tokens each, as fast as they go
    python bench/http_events.py --step-ms 30          # paced as a GPU does: tokens per second = streams / step

Prints tokens and events per second, and the CPU time per event of each of the server's threads (which share Python's
lock with the engine). Times of CPU, not of the clock: other work on the machine hardly changes them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.runtime_fakes import fake_artifact
from warploom.runtime.async_llm import AsyncLLM
from warploom.runtime.device import StepOutput
from warploom.runtime.server.limits import Limits
from warploom.runtime.server.run import ServerOptions, bind, new_server
from warploom.runtime.server.service import Service
from warploom.runtime.step_batch import StepBatch


class IdleDevice:
    """A device that gives letters, a step after `step_s` seconds."""

    page_size, num_pages, max_tokens = 16, 1 << 16, 8192

    def __init__(self, max_seqs: int, step_s: float) -> None:
        self.max_seqs = self.max_rows = max_seqs
        self._step_s, self._last = step_s, 0.0

    def launch(self, batch: StepBatch, token_sources: NDArray[np.int32] | None = None) -> int:
        return len(batch.logit_rows)

    def result(self, ticket: int) -> StepOutput:
        time.sleep(max(0.0, self._last + self._step_s - time.monotonic()))
        self._last = time.monotonic()
        return StepOutput(np.full(ticket, 70, np.int32), np.zeros(ticket, np.float32), None, None)

    def execute(self, batch: StepBatch) -> StepOutput:
        return self.result(self.launch(batch))

    def close(self) -> None:
        pass


def serve(pipe: Connection, streams: int, step_s: float) -> None:
    """The server's process; tells its port, and on request the CPU seconds of its threads by name."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = fake_artifact(Path(folder) / "artifact", max_context=4096)
        llm = AsyncLLM.load(artifact, device=IdleDevice(streams, step_s), max_queue=streams)
        service = Service(llm, model_name="fake", limits=Limits(), tool_format=None, health_seconds=60)
        listener = bind("127.0.0.1", 0)
        server = new_server(service, ServerOptions(), listener)
        threading.Thread(target=_tell, args=(pipe, listener.getsockname()[1], server), daemon=True).start()
        listener.listen(4096)
        import cProfile, pstats; pr = cProfile.Profile(); pr.enable(); asyncio.run(server.serve([listener])); pr.disable(); pstats.Stats(pr).sort_stats("tottime").print_stats(45)


def _tell(pipe: Connection, port: int, server: Any) -> None:
    pipe.send(port)
    while pipe.recv():
        pipe.send({thread.name: _cpu_seconds(thread.native_id) for thread in threading.enumerate()})
    server.should_exit = server.force_exit = True


def _cpu_seconds(thread_id: int | None) -> float:
    return int(Path(f"/proc/self/task/{thread_id}/schedstat").read_text().split()[0]) / 1e9


class Reader(asyncio.Protocol):
    """A client that counts the events of one streamed answer."""

    def __init__(self, request: bytes, done: asyncio.Future[int]) -> None:
        self._request, self._done = request, done
        self.events, self._tail = 0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        data = self._tail + data
        self.events += data.count(b"data: {")
        self._tail = data[-6:]
        if b"[DONE]" in data and not self._done.done():
            self._done.set_result(self.events)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(ConnectionError("the server has closed the connection"))


async def read(port: int, streams: int, tokens: int) -> int:
    """Read so many streams at once; return the events."""
    body = json.dumps({"prompt": [5, 6, 7], "max_tokens": tokens, "ignore_eos": True, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    loop = asyncio.get_running_loop()
    ends: list[asyncio.Future[int]] = [loop.create_future() for _ in range(streams)]
    for end in ends:
        sock = socket.create_connection(("127.0.0.1", port))
        await loop.create_connection(lambda end=end: Reader(head.encode() + b"\r\n\r\n" + body, end), sock=sock)
    return sum(await asyncio.gather(*ends))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--step-ms", type=float, default=0.0)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs, args.streams, args.step_ms / 1e3))
    server.start()
    port = ours.recv()
    asyncio.run(read(port, 8, 8))
    ours.send(True)
    before = ours.recv()
    started = time.perf_counter()
    events = asyncio.run(read(port, args.streams, args.tokens))
    seconds = time.perf_counter() - started
    ours.send(True)
    after = ours.recv()
    ours.send(False)
    server.join(20)
    total = args.streams * args.tokens
    print(f"{args.streams} streams, {total} tokens, {events} events in {seconds:.2f} s: {total / seconds:.0f} tokens/s, "
          f"{events / seconds:.0f} events/s; load {os.getloadavg()[0]:.1f}")  # fmt: skip
    for name, cpu in after.items():
        spent = cpu - before.get(name, 0.0)
        if spent > 1e-3:
            print(f"  {name:24} {1e6 * spent / events:6.1f} us of CPU per event, {1e6 * spent / total:6.1f} per token")


if __name__ == "__main__":
    main()
