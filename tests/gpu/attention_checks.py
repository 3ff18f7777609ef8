"""Checks and timings of attention, decode and ragged. For `run_kernels.py`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from tests.gpu.attention_inputs import attention, dims_of, held, projected, step, stored
from tests.gpu.kernel_bench import ROTATED, Arrays, Bench, Case


def small_batches(family: str, problem: Case) -> Iterator[tuple[str, Arrays]]:
    """A page, its boundary, parts to combine, and padding: few blocks."""
    if family == "decode":
        yield "small", step(problem, [(1, 64), (1, 65), (1, 300), (0, 0)], padding=1)
        return
    yield "small", step(problem, [(1, 65), (70, 70), (17, 130)], padding=3)


def attention_batches(family: str, problem: Case, rng: np.random.Generator) -> Iterator[tuple[str, Arrays]]:
    """Page boundaries, ragged lengths, padded buckets, long contexts."""
    edges = [1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 257, 640]
    if family == "decode":
        yield "edges", step(problem, [(1, c) for c in edges])
        yield "one", step(problem, [(1, 256)])
        yield "long", step(problem, [(1, 32768)])
        yield "long in wide table", step(problem, [(1, 5000), (1, 1), (1, 300)], extra_pages=500)
        yield "padded bucket", step(problem, [(1, 100), (1, 3000), (1, 64)] + [(0, 0)] * 5, padding=5)
        yield "64 sequences", step(problem, [(1, int(c)) for c in rng.integers(1, 3000, 64)])
        yield "200 short ones", step(problem, [(1, int(c)) for c in rng.integers(1, 400, 200)])  # more than fit at once
        yield "fewer tokens than sequences", step(problem, [(0, 0), (3, 70), (0, 0), (1, 129), (0, 0)])
        return
    yield "edges", step(problem, [(1, c) for c in edges] + [(c, c) for c in edges[:-1]])
    yield "one token", step(problem, [(1, 1)])
    yield "300 of one", step(problem, [(300, 300)])
    yield "chunk after long prefix", step(problem, [(100, 32768)])
    mixed = [(int(q), int(q + rng.integers(0, 700))) for q in rng.integers(0, 9, 64)]
    yield "64 mixed", step(problem, mixed, padding=3)
    yield "padding beyond blocks", step(problem, [(17, 90), (0, 0), (40, 1000)], padding=300)
    yield "two chunks", step(problem, [(700, 700), (1, 2000), (513, 1500)])


def close_rows(actual: torch.Tensor, expected: torch.Tensor) -> str | None:
    """bf16 attention: errors in units of the typical number."""
    error = ((actual.float() - expected).abs() / (expected.square().mean().sqrt() + expected.abs())).nan_to_num(1e9)
    return f"error {error.max():.3g}, mean {error.mean():.3g}" if error.max() > 0.03 else None


def check_attention(bench: Bench, case: Case) -> Iterator[tuple[str, list[str]]]:
    problem = case["problem"]
    family = case["family"]
    batches = attention_batches(family, problem, np.random.default_rng(5))
    for label, arrays in small_batches(family, problem) if bench.small else batches:
        dims, oracle = dims_of(arrays), arrays
        if problem["projection"]:
            arrays, oracle = projected(problem, arrays)
        problems = bench.run(case["kernels"], arrays, dims)
        live = int(arrays["query_start"][-1])
        if (wrong := close_rows(arrays["out"][:live], attention(problem, oracle)[:live])) is not None:
            problems.append(wrong)
        relative, absolute = {"f8e4m3": (2**-3, 2**-9), "i8": (0, 1)}.get(problem["kv"], (2**-7, 2**-9))
        if not torch.allclose(arrays["kv"].float(), oracle["kv"].float(), rtol=relative, atol=absolute, equal_nan=True):
            problems.append("the cache is wrong")
        if arrays["out"][live:].any():
            problems.append("padding is not zero")
        yield f"{label} {dims}", problems


def layered(problem: Case, arrays: Arrays, layers: int) -> list[Arrays]:
    """The same step on several caches, as layers of a model."""
    shape = held(problem, arrays["kv"]).shape
    made = (stored(problem, torch.randn(shape, device="cuda", dtype=torch.bfloat16)) for _ in range(layers))
    return [arrays | {"kv": cache} for cache in made]


def bench_decode(bench: Bench, case: Case) -> Iterator[Case]:
    problem, (name,) = case["problem"], case["kernels"]
    for batch, context, room in (
        (1, 256, 0),
        (1, 256, 124),
        (1, 1024, 0),
        (1, 8192, 0),
        (1, 32768, 0),
        (8, 256, 0),
        (8, 1024, 0),
        (8, 8192, 0),
        (32, 256, 0),
        (32, 1024, 0),
        (32, 8192, 0),
        (128, 256, 0),
        (128, 1024, 0),
    ):
        arrays = step(problem, [(1, context)] * batch, extra_pages=room)
        if problem["projection"]:
            arrays = projected(problem, arrays)[0]
        per_layer = arrays["kv"].nbytes
        layers = layered(problem, arrays, max(2, min(64, ROTATED // per_layer + 1)))
        dims = dims_of(arrays)
        temps = bench.temps(name, dims)
        runs = max(len(layers), min(128, int(2e9 / per_layer)))
        us = bench.time([bench.bind(name, layers[i % len(layers)] | temps, dims) for i in range(runs)])
        label = f"batch {batch} context {context}" + (f" table {dims['P']}" if room else "")
        yield {"label": label, "us": us, "bytes": per_layer + 4 * arrays["q"].numel()}


def bench_ragged(bench: Bench, case: Case) -> Iterator[Case]:
    problem, (name,) = case["problem"], case["kernels"]
    for label, sequences in (
        ("prefill 512", [(512, 512)]),
        ("prefill 4096", [(4096, 4096)]),
        ("prefill 8x512", [(512, 512)] * 8),
        ("chunk 2048 at 8192", [(2048, 8192)]),
        ("chunk 512 + 32 decodes at 1024", [(512, 512)] + [(1, 1024)] * 32),
    ):
        arrays = step(problem, sequences)
        if problem["projection"]:
            arrays, written = projected(problem, arrays)
            arrays["kv"] = written["kv"]
        dims = dims_of(arrays)
        arrays |= {temp: memory.normal_() for temp, memory in bench.temps(name, dims).items()}
        visible = sum(q * c - q * (q - 1) // 2 for q, c in sequences)
        us = bench.time([bench.bind(name, arrays, dims)] * 20)
        yield {"label": label, "us": us, "flops": 4 * problem["num_heads"] * problem["head_dim"] * visible}
