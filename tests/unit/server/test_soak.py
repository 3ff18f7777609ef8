"""Many requests, many of them broken off: nothing is left behind, neither page, thread, file nor memory.

The variable WARPLOOM_SOAK sets their number; the figure of the project is 20000 (some minutes).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from tests.unit.server.conftest import Running, SlowDevice, StartServer
from warploom.runtime.artifact import Artifact

REQUESTS = int(os.environ.get("WARPLOOM_SOAK", "240"))
CLIENTS = 24
WORDS = ["once", "upon", "a", "time", "there", "was", "loom", "naïve", "你好"]  # few: the tokenizer remembers 10000
SETTLED = 0.4  # part of the requests after which memory should grow no more
GROWTH = 1.02


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def random_request(rng: random.Random) -> tuple[str, dict[str, Any]]:
    text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 20)))
    body: dict[str, Any] = {
        "max_tokens": rng.randint(1, 24), "stream": rng.random() < 0.6, "n": rng.choice([1, 1, 1, 2]),
        "temperature": rng.choice([0, 1]), "ignore_eos": rng.random() < 0.5, "priority": rng.randint(-1, 1),
    }  # fmt: skip
    if rng.random() < 0.1:
        body["max_tokens"] = 10**7 * rng.choice([-1, 1])  # refused, or until the context is full
    if rng.random() < 0.05:
        body |= {"use_beam_search": True}
    elif rng.random() < 0.3:
        body |= {"logprobs": 2, "stop": ["a"]}
    if rng.random() < 0.5:
        return "/v1/completions", {**body, "prompt": text}
    body.pop("logprobs", None)
    return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": text}]}


async def client(port: int, seed: int, count: int, statuses: dict[int, int]) -> None:
    """Sends requests one after the other; a third of them are broken off somewhere."""
    rng = random.Random(seed)
    for _ in range(count):
        path, body = random_request(rng)
        data = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        if rng.random() < 0.33:
            await asyncio.sleep(rng.random() * 0.02)
            writer.transport.abort()
            statuses[0] = statuses.get(0, 0) + 1
            continue
        reply = await reader.read()
        status = int(reply.split()[1])
        statuses[status] = statuses.get(status, 0) + 1
        writer.close()
        await writer.wait_closed()


def soak(running: Running, count: int, seed: int) -> dict[int, int]:
    statuses: dict[int, int] = {}

    async def run() -> None:
        await asyncio.gather(
            *(client(running.port, seed + number, count // CLIENTS, statuses) for number in range(CLIENTS))
        )

    asyncio.run(run())
    running.wait_idle()
    return statuses


def test_nothing_is_left_behind(start_server: StartServer, artifact: Artifact) -> None:
    device = SlowDevice(artifact, max_seqs=8, max_tokens=64, num_pages=150)  # too few pages for eight: preemption
    device.batches = deque(maxlen=1)  # type: ignore[assignment]  # it would remember them all
    running = start_server(device=device, max_queue=12)
    first = soak(running, int(REQUESTS * SETTLED), 0)
    threads, files, memory = threading.active_count(), open_files(), resident_bytes()
    second = soak(running, int(REQUESTS * (1 - SETTLED)), 1000)
    growth = resident_bytes() / memory
    print(json.dumps({"statuses": [first, second], "memory growth": round(growth, 4)}))
    assert set(first) | set(second) <= {0, 200, 400, 429}
    assert first.get(200, 0) > 0
    deadline = time.monotonic() + 10  # a connection is closed a moment after the engine has nothing to do
    while open_files() > files and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= threads
    assert open_files() <= files
    if REQUESTS >= 5000:
        assert growth <= GROWTH
    assert running.complete(seed=1).status == 200
