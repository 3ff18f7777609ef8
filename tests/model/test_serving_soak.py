"""Many requests of all kinds against a tiny model on the CPU, many of which are dropped: nothing is left behind.

The variable WARPLOOM_SOAK sets the number of requests; tools/nightly runs 20,000.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from warploom.compiler import compile
from warploom.errors import DeadlineError, QueueFullError
from warploom.runtime.artifact import Artifact
from warploom.runtime.async_llm import AsyncLLM
from warploom.runtime.beam_search import BeamSearchParams
from warploom.runtime.output import Delta
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.speculative_config import SpeculativeConfig

NUM_REQUESTS = int(os.environ.get("WARPLOOM_SOAK", "400"))
MEASURES_MEMORY = NUM_REQUESTS >= 5000  # below, what is allocated once outweighs what might leak
MAX_GROWTH = 1.02
CONCURRENCY = 40
VOCAB, CONTEXT = 512, 128
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": VOCAB,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
    "bos_token_id": 1,
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A small Llama with random weights."""
    folder = tmp_path_factory.mktemp("soak")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return compile(folder, out=folder / "artifact", dummy_weights=True)


def random_request(rng: random.Random) -> tuple[list[int], dict[str, Any], SamplingParams | BeamSearchParams]:
    """A prompt that often shares its beginning with others, how it is sent, and how it is sampled."""
    stem = [rng.choice([7, 8, 9])] * rng.choice([0, 16, 40])
    prompt = stem + [rng.randrange(3, VOCAB) for _ in range(rng.randint(1, 30))]
    kinds: list[dict[str, Any]] = [
        {}, {"temperature": 0}, {"n": 3}, {"n": 1, "best_of": 2}, {"logprobs": 3}, {"prompt_logprobs": 1},
        {"repetition_penalty": 1.2, "presence_penalty": 0.5}, {"min_tokens": 3}, {"stop": ["a", "b"]},
        {"logit_bias": {5: 10.0}, "top_k": 5}, {"bad_words": ["ab", "c"]}, {"allowed_token_ids": [5, 6, 7, 300]},
        {"logits_processors": [lambda prompt, output: dict.fromkeys(output[-2:], -5.0)]},
    ]  # fmt: skip
    params: SamplingParams | BeamSearchParams = SamplingParams(max_tokens=rng.randint(3, 24), **rng.choice(kinds))
    if rng.random() < 0.05:
        params = BeamSearchParams(beam_width=3, n=rng.randint(1, 3), max_tokens=rng.randint(1, 12))
    sending = {"priority": rng.choice([0, 0, 0, 1, -1]), "cache_salt": rng.choice(["", "", "tenant"])}
    return prompt, sending, params


class Soak:
    """One run; what happened is counted by name."""

    def __init__(self, llm: AsyncLLM, seed: int) -> None:
        self.llm, self.rng = llm, random.Random(seed)
        self.counts: dict[str, int] = {}

    async def request(self) -> None:
        """Send one request, and read it to its end, or leave it at some point, or give it too little time."""
        rng = self.rng
        prompt, sending, params = random_request(rng)
        leaves_after = rng.choice([None, None, None, 0, 1, 3])
        timeout_s = 0.002 if rng.random() < 0.03 else None
        try:
            stream = await self.llm.start(prompt, params, timeout_s=timeout_s, **sending)
            async with stream:
                deltas: list[Delta] = []
                while len(deltas) != leaves_after:
                    try:
                        deltas.append(await anext(stream))
                    except StopAsyncIteration:
                        break
        except QueueFullError:
            self.count("full")
            await asyncio.sleep(0.01)
        except DeadlineError:
            self.count("late")
        else:
            self.count("left" if leaves_after is not None else "read")
            if leaves_after is None:
                assert sum(delta.finish_reason is not None for delta in deltas) == stream.num_answers

    def count(self, what: str) -> None:
        """Count one of it."""
        self.counts[what] = self.counts.get(what, 0) + 1

    async def run(self, number: int) -> None:
        """Send so many requests, many at once; some readers are killed."""
        left = iter(range(number))

        async def worker() -> None:
            for _ in left:
                task = asyncio.create_task(self.request())
                if self.rng.random() < 0.05:
                    await asyncio.sleep(self.rng.random() * 0.01)
                    task.cancel()
                    self.count("killed")
                await asyncio.wait([task])
                if not task.cancelled():
                    task.result()

        await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
        while self.llm.stats().heartbeat_age or self.llm.stats().running:
            await asyncio.sleep(0.01)


def resources() -> tuple[int, int]:
    """Threads, and open files, without those that garbage of other tests still holds."""
    gc.collect()
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_nothing_is_left_of_many_requests(artifact: Artifact) -> None:
    async def run() -> dict[str, int]:
        kv_bytes = artifact.target("cpu").kv.bytes_per_page * 48  # too few for all rows: some are preempted
        limits: dict[str, Any] = {"max_num_seqs": 12, "kv_cache_bytes": kv_bytes, "max_queue": 30}
        limits["speculation"] = SpeculativeConfig(num_speculative_tokens=3, prompt_lookup_min=1)
        async with AsyncLLM.load(artifact, device="cpu", **limits) as llm:
            soak = Soak(llm, seed=1)
            await soak.run(NUM_REQUESTS // 5)
            before, files = resident_bytes(), resources()
            await soak.run(NUM_REQUESTS - NUM_REQUESTS // 5)
            assert resources() == files
            assert not MEASURES_MEMORY or resident_bytes() <= MAX_GROWTH * before
            stats = llm.stats()
            assert (stats.running, stats.waiting, stats.kv_usage, stats.dead) == (0, 0, 0.0, None)
            assert stats.preemptions > 0
            assert stats.accepted_tokens > 0
            assert stats.prefix_hits > 0
            llm._engine.check()
            assert not llm._answers
        return soak.counts

    before = resources()
    counts = asyncio.run(run())
    assert resources() == before
    assert sum(counts[what] for what in ("read", "left", "late", "full", "killed") if what in counts) >= NUM_REQUESTS
    assert min(counts.get(what, 0) for what in ("read", "left", "killed")) > NUM_REQUESTS // 50
