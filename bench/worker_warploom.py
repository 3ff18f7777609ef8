"""Warploom for `cpu_decode.py`: one line of JSON with tokens per second for each line of input.

python bench/worker_warploom.py ARTIFACT THREADS
"""

from __future__ import annotations

import json
import random
import sys
import time

import numpy as np

from warploom import LLM, SamplingParams, load
from warploom.runtime.cpu import CpuDevice
from warploom.runtime.step_batch import StepBatch

PROMPT, CONTEXT, STEPS, VOCAB = 512, 96, 64, 49152  # as in worker_llama.py


def batch(start: int, count: int, page_size: int) -> StepBatch:
    """`count` random tokens from position `start` of the only sequence, whose pages are 0, 1, ...; one logit row."""
    positions = np.arange(start, start + count, dtype=np.int32)
    pages = -(-(start + count) // page_size)
    return StepBatch(
        token_ids=np.array([random.randrange(100, VOCAB - 100) for _ in range(count)], np.int32),
        positions=positions,
        slots=positions,
        page_table=np.arange(pages, dtype=np.int32)[None],
        query_start=np.array([0, count], np.int32),
        context_lens=np.array([start + count], np.int32),
        logit_rows=np.array([count - 1], np.int32),
        sampling=None,
        top_logprobs=False,
    )


def step_rates(device: CpuDevice) -> dict[str, float]:
    """Tokens per second of the step alone, which ends with logits."""

    def seconds(start: int, count: int) -> float:
        given = batch(start, count, device.page_size)
        started = time.perf_counter()
        device.logits(given)
        return time.perf_counter() - started

    prefill = PROMPT / seconds(0, PROMPT)
    seconds(0, CONTEXT)
    decode = STEPS / sum(seconds(CONTEXT + step, 1) for step in range(STEPS))
    return {"prefill": prefill, "decode": decode}


def engine_rates(llm: LLM) -> dict[str, float]:
    """Tokens per second of greedy generation through the public API."""
    prompt = [random.randrange(100, VOCAB - 100) for _ in range(CONTEXT)]
    params = SamplingParams(temperature=0, max_tokens=STEPS + 1, ignore_eos=True)
    return {"decode through LLM.generate": llm.generate([prompt], params)[0].metrics.tokens_per_second}


def main() -> None:
    """Load the artifact, then run rounds until the input ends."""
    artifact, threads = load(sys.argv[1]), int(sys.argv[2])
    device = CpuDevice(artifact, threads=threads)
    with LLM(artifact, device=device) as llm:
        for _ in sys.stdin:
            print(json.dumps(step_rates(device) | engine_rates(llm)), flush=True)


if __name__ == "__main__":
    main()
