"""Check and time the kernels that `build_kernels.py` compiled. Runs on the GPU machine.

    python tests/gpu/run_kernels.py FOLDER [--out JSON] [--only check|bench] [--families decode,ragged,...] [--small]

needs cuda-bindings; torch allocates, draws random numbers and is the oracle (f32 without TF32). Timed: graphs of many
launches with programmatic dependent launch, as they follow each other in a step, over caches and logits that rotate
through more than L2, medians. A case that fails is reported and the rest goes on. Exit status 1 if a check failed.
--small leaves out the checks that are slow under compute-sanitizer.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cuda.bindings import driver as cu
from kernel_data import sample_inputs

from warploom.tools.kernel_launcher import Graph, Kernel, Timer, checked, tensor_map_params

BANDWIDTH = 3.0  # TB/s of a copy on an H100
PEAK = 798.0  # TFLOP/s, cuBLAS bf16 8192^3 on random data
ROTATED = 300 << 20  # bytes between two uses of the same data
PAGE = 64
SMALL_TABLE = 130  # entries
TORCH = {
    "bf16": torch.bfloat16,
    "f32": torch.float32,
    "f16": torch.float16,
    "i32": torch.int32,
    "i64": torch.int64,
    "i8": torch.int8,
    "f8e4m3": torch.float8_e4m3fn,
    "i1": torch.bool,
}
# What tests/tolerances.py allows.
TOLERANCES = {"f32": (1e-5, 1e-5), "f16": (2e-3, 2e-3), "bf16": (1.6e-2, 1e-2)}
Case = dict[str, Any]
Arrays = dict[str, torch.Tensor]
Launch = Callable[[int], None]


class Bench:
    """Kernels of one folder."""

    def __init__(self, folder: Path, small: bool) -> None:
        self.small = small
        found = json.loads((folder / "kernels.json").read_text())
        self.cases: list[Case] = found["cases"]
        self.infos: dict[str, Case] = found["kernels"]
        self.folder = folder
        self.stream = torch.cuda.Stream()
        self.timer = Timer(self.stream.cuda_stream)
        self.kernels: dict[str, Kernel] = {}

    def temps(self, name: str, dims: dict[str, int]) -> Arrays:
        """Memory of a kernel: zeros where it asks for them, else garbage that would be seen."""
        made = {}
        for temp in self.infos[name]["temps"]:
            shape = [number(extent, dims) for extent in temp["shape"]]
            fill = 0 if temp["zeroed"] else -(2**31) if temp["dtype"] == "i32" else float("nan")
            made[temp["name"]] = torch.full(shape, fill, dtype=TORCH[temp["dtype"]], device="cuda")
        return made

    def bind(self, name: str, arrays: Arrays, dims: dict[str, int], pdl: bool = True) -> Launch | None:
        """A launch on fixed operands: a function of the stream; None for an empty grid."""
        info = self.infos[name]
        if name not in self.kernels:
            self.kernels[name] = Kernel(name, info, self.folder)
        kernel = self.kernels[name]
        grid = [number(extent, dims) for extent in info["grid"]]
        if 0 in grid:
            return None
        values: list[Any] = []
        types: list[Any] = []
        for operand in info["operands"]:
            address, found = arrays[operand].data_ptr(), info["maps"].get(operand)
            if found is None:
                values.append(address)
                types.append(ctypes.c_void_p)
            else:
                shape = [number(extent, dims) for extent in found["shape"]]
                more_values, more_types = tensor_map_params(address, found["dtype"], shape, *found["place"])
                values += more_values
                types += more_types
        values += [*(dims[dim] for dim in info["dims"]), 0, 0]
        types += [ctypes.c_int32] * len(info["dims"]) + [ctypes.c_void_p] * 2
        config = cu.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid
        config.blockDimX, config.blockDimY, config.blockDimZ = 32 * info["num_warps"], 1, 1
        config.sharedMemBytes = info["shared_bytes"]
        if pdl and info["pdl"]:
            attribute = cu.CUlaunchAttribute()
            attribute.id = cu.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            attribute.value.programmaticStreamSerializationAllowed = 1
            config.attrs, config.numAttrs = [attribute], 1
        arguments = (tuple(values), tuple(types))

        def launch(stream: int) -> None:
            config.hStream = stream
            checked(cu.cuLaunchKernelEx(config, kernel.function, arguments, 0))

        return launch

    def run(self, names: Sequence[str], arrays: Arrays, dims: dict[str, int]) -> list[str]:
        """Launch twice; returns what is wrong with that: counters that stay, results that differ."""
        temps: Arrays = {}
        for name in names:
            temps |= self.temps(name, dims)
        launches = [self.bind(name, arrays | temps, dims) for name in names]
        results = []
        for _ in range(2):
            torch.cuda.synchronize()
            for launch in filter(None, launches):
                launch(self.stream.cuda_stream)
            torch.cuda.synchronize()
            results.append({n: a.clone() for n, a in arrays.items() if n in RESULTS or n.startswith("out")})
        problems = [
            f"two runs differ in {n}" for n in results[0] if not torch.equal(bits(results[0][n]), bits(results[1][n]))
        ]
        zeroed = [t["name"] for name in names for t in self.infos[name]["temps"] if t["zeroed"]]
        return problems + [f"{name} is not left zero" for name in zeroed if temps[name].any()]

    def time(self, launches: Sequence[Launch | None]) -> float:
        """Microseconds of one launch: the median over replays of a graph of all."""
        graph = Graph([launch for launch in launches if launch is not None], self.stream.cuda_stream)
        graph.replay()
        found = self.timer.times(graph.replay, 9)
        graph.destroy()
        return found[len(found) // 2] / len(launches)


RESULTS = ("kv", "tokens", "logprobs", "top_tokens", "top_logprobs")


def number(expression: str, dims: dict[str, int]) -> int:
    """The value of a plan expression."""
    return int(eval(expression, {"min": min, "max": max, **dims}))


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


# --- attention


def paged(problem: Case, contexts: Sequence[int], width: int) -> Arrays:
    """A cache of random pages in random order, NaN where no token is."""
    pages = [-(-context // PAGE) for context in contexts]
    count = sum(pages) + 1
    shape = (count, 2, problem["num_kv_heads"], PAGE, problem["head_dim"])
    kv = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    table = np.zeros((len(contexts), width), np.int32)
    order = iter(np.random.default_rng(1).permutation(count))
    for row, (used, context) in enumerate(zip(pages, contexts, strict=True)):
        table[row, :used] = [next(order) for _ in range(used)]
        if context % PAGE:
            kv[table[row, used - 1], :, :, context % PAGE :] = float("nan")
    for page in order:
        kv[page] = float("nan")
    return {"kv": kv.to(TORCH[problem["kv"]]), "page_table": torch.from_numpy(table).cuda()}


def step(problem: Case, sequences: Sequence[tuple[int, int]], padding: int = 0, extra_pages: int = 0) -> Arrays:
    """Operands of attention: `sequences` are (query, context) lengths."""
    contexts = [context for _, context in sequences]
    width = max(1, max(-(-context // PAGE) for context in contexts)) + extra_pages
    starts = np.cumsum([0, *(query for query, _ in sequences)]).astype(np.int32)
    tokens = int(starts[-1]) + padding
    shape = (tokens, problem["num_heads"], problem["head_dim"])
    q = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    q[int(starts[-1]) :] = float("nan")
    sinks = torch.randn(shape[1], device="cuda").to(TORCH[problem["sinks"] or "f32"])
    return {
        "q": q,
        "sinks": sinks,
        "query_start": torch.from_numpy(starts).cuda(),
        "context_lens": torch.tensor(contexts, dtype=torch.int32, device="cuda"),
        "out": torch.full(shape, float("nan"), device="cuda", dtype=torch.bfloat16),
        **paged(problem, contexts, width),
    }


def projected(problem: Case, given: Arrays) -> tuple[Arrays, Arrays]:
    """Operands of attention that also rotates and writes, and what attention alone would get."""
    heads, kv_heads, size = problem["num_heads"], problem["num_kv_heads"], problem["head_dim"]
    tokens, half = len(given["q"]), problem["projection"]["half"]
    starts, contexts = given["query_start"].tolist(), given["context_lens"].tolist()
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * size, device="cuda", dtype=torch.bfloat16)
    qkv[starts[-1] :] = float("nan")
    angle = torch.rand(tokens, half, device="cuda") * 6
    slots = torch.full((tokens,), -1, dtype=torch.int32, device="cuda")
    for s, context in enumerate(contexts):
        position = torch.arange(context - (starts[s + 1] - starts[s]), context, device="cuda")
        pages = given["page_table"][s, position // PAGE]
        slots[starts[s] : starts[s + 1]] = (pages * PAGE + position % PAGE).int()
    cos, sin = angle.cos(), angle.sin()
    low, high, rest = qkv.float().view(tokens, -1, size).split([half, half, size - 2 * half], -1)
    turned = [low * cos[:, None] - high * sin[:, None], high * cos[:, None] + low * sin[:, None], rest]
    rotated = torch.cat(turned, -1).bfloat16()
    live = slots[: starts[-1]].long()
    empty, full = (given["kv"].to(torch.bfloat16, copy=True) for _ in range(2))
    keys, values = rotated[:, heads : heads + kv_heads], qkv.view(tokens, -1, size)[:, heads + kv_heads :]
    for which, new in ((0, keys), (1, values)):
        empty[live // PAGE, which, :, live % PAGE] = float("nan")
        full[live // PAGE, which, :, live % PAGE] = new[: starts[-1]]
    empty, full = empty.to(given["kv"].dtype), full.to(given["kv"].dtype)
    fresh = {"q": qkv, "k": qkv, "v": qkv, "cos": cos, "sin": sin, "slots": slots, "kv": empty}
    return given | fresh, given | {"q": rotated[:, :heads], "kv": full}


def attention(problem: Case, arrays: Arrays) -> torch.Tensor:
    """The meaning, in f32, sequence by sequence and kv head by kv head."""
    pages = arrays["kv"].bfloat16()
    q, out = arrays["q"].float(), torch.zeros_like(arrays["q"], dtype=torch.float32)
    group = problem["num_heads"] // problem["num_kv_heads"]
    starts, contexts = arrays["query_start"].tolist(), arrays["context_lens"].tolist()
    for s, context in enumerate(contexts):
        begin, end = starts[s], starts[s + 1]
        if begin == end:
            continue
        used = arrays["page_table"][s, : -(-context // PAGE)].long()
        cache = pages[used].float()  # [pages, 2, kv_heads, PAGE, D]
        position = torch.arange(context - (end - begin), context, device="cuda")[:, None]
        key = torch.arange(context, device="cuda")[None, :]
        visible = key <= position
        if problem["window"]:
            visible &= key > position - problem["window"]
        for h in range(problem["num_kv_heads"]):
            k, v = (cache[:, i, h].reshape(-1, problem["head_dim"])[:context] for i in (0, 1))
            heads = slice(h * group, (h + 1) * group)
            scores = torch.einsum("tgd,jd->gtj", q[begin:end, heads], k) * problem["scale"]
            if problem["softcap"]:
                scores = problem["softcap"] * torch.tanh(scores / problem["softcap"])
            scores = scores.masked_fill(~visible, float("-inf"))
            if problem["sinks"]:
                sink = arrays["sinks"][heads].float()[:, None, None].expand(-1, len(position), 1)
                weights = torch.cat([scores, sink], -1).softmax(-1)[..., :-1]
            else:
                weights = scores.softmax(-1)
            out[begin:end, heads] = torch.einsum("gtj,jd->tgd", weights, v)
    return out


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
    for label, arrays in attention_batches(case["family"], problem, np.random.default_rng(5)):
        if bench.small and arrays["page_table"].numel() > SMALL_TABLE:
            continue
        dims, oracle = dims_of(arrays), arrays
        if problem["projection"]:
            arrays, oracle = projected(problem, arrays)
        problems = bench.run(case["kernels"], arrays, dims)
        live = int(arrays["query_start"][-1])
        if (wrong := close_rows(arrays["out"][:live], attention(problem, oracle)[:live])) is not None:
            problems.append(wrong)
        rounding = 2**-3 if problem["kv"] == "f8e4m3" else 2**-7
        if not torch.allclose(arrays["kv"].float(), oracle["kv"].float(), rtol=rounding, atol=2**-9, equal_nan=True):
            problems.append("the cache is wrong")
        if arrays["out"][live:].any():
            problems.append("padding is not zero")
        yield f"{label} {dims}", problems


def dims_of(arrays: Arrays) -> dict[str, int]:
    table = arrays["page_table"]
    return {"T": len(arrays["q"]), "S": len(table), "P": table.shape[1], "C": len(arrays["kv"])}


def layered(arrays: Arrays, layers: int) -> list[Arrays]:
    """The same step on several caches, as layers of a model."""
    kv = arrays["kv"]
    made = (torch.randn(kv.shape, device="cuda", dtype=torch.bfloat16).to(kv.dtype) for _ in range(layers))
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
        layers = layered(arrays, max(2, min(64, ROTATED // per_layer + 1)))
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
        visible = sum(q * c - q * (q - 1) // 2 for q, c in sequences)
        us = bench.time([bench.bind(name, arrays, dims)] * 20)
        yield {"label": label, "us": us, "flops": 4 * problem["num_heads"] * problem["head_dim"] * visible}


# --- rotary embedding, embedding, norm


def check_rope(bench: Bench, case: Case) -> Iterator[tuple[str, list[str]]]:
    shape = case["shape"]
    heads, kv_heads, size = shape["heads"], shape["kv_heads"], shape["head_dim"]
    for tokens in (1, 2, 7, 64, 300):
        arrays = rope_arrays(heads, kv_heads, size, tokens)
        before = arrays["kv"].clone()
        problems = bench.run(case["kernels"], arrays, {"T": tokens})
        qkv = arrays["q"].float().view(tokens, -1, size)
        low, high = qkv[:, : heads + kv_heads].chunk(2, -1)
        cos, sin = arrays["cos"][:, None], arrays["sin"][:, None]
        rotated = torch.cat([low * cos - high * sin, high * cos + low * sin], -1)
        wanted = before.float().view(-1, 2, kv_heads, PAGE, size)
        kept = (arrays["slots"] >= 0).nonzero()[:, 0]
        page, offset = arrays["slots"][kept].long() // PAGE, arrays["slots"][kept].long() % PAGE
        wanted[page, 0, :, offset] = rotated[kept, heads:]
        wanted[page, 1, :, offset] = qkv[kept, heads + kv_heads :]
        for name, expected in (("out", rotated[:, :heads]), ("kv", wanted)):
            if not torch.allclose(arrays[name].float().view(expected.shape), expected, rtol=2**-7, atol=2**-9):
                problems.append(f"{name} is wrong")
        yield f"{shape} T={tokens}", problems


def rope_arrays(heads: int, kv_heads: int, size: int, tokens: int) -> Arrays:
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * size, device="cuda", dtype=torch.bfloat16)
    angle = torch.rand(tokens, size // 2, device="cuda") * 6
    pages = tokens // PAGE + 2
    slots = torch.randperm(pages * PAGE, device="cuda")[:tokens].int()
    slots[::5] = -1
    kv = torch.randn(pages, 2, kv_heads, PAGE * size, device="cuda", dtype=torch.bfloat16)
    out = torch.full((tokens, heads, size), float("nan"), device="cuda", dtype=torch.bfloat16)
    return {
        "q": qkv, "k": qkv, "v": qkv, "cos": angle.cos(), "sin": angle.sin(), "slots": slots, "kv": kv,
        "out": out,
    }  # fmt: skip


def bench_rope(bench: Bench, case: Case) -> Iterator[Case]:
    shape, (name,) = case["shape"], case["kernels"]
    for tokens in (1, 8, 32, 128, 4096):
        arrays = rope_arrays(shape["heads"], shape["kv_heads"], shape["head_dim"], tokens)
        us = bench.time([bench.bind(name, arrays, {"T": tokens})] * 50)
        yield {"label": f"T={tokens}", "us": us, "bytes": 4 * arrays["q"].numel()}


def embed_arrays(case: Case, tokens: int) -> Arrays:
    table = torch.randn(case["rows"], case["columns"], device="cuda", dtype=torch.bfloat16)
    ids = torch.randint(-2, case["rows"] + 2, (tokens,), device="cuda", dtype=torch.int32)
    return {
        "ids": ids,
        "table": table,
        "out": torch.zeros(tokens, case["columns"], device="cuda").to(TORCH[case["out"]]),
    }


def check_embed(bench: Bench, case: Case) -> Iterator[tuple[str, list[str]]]:
    for tokens in (1, 5, 300):
        arrays = embed_arrays(case, tokens)
        problems = bench.run(case["kernels"], arrays, {"T": tokens})
        expected = arrays["table"][arrays["ids"].clamp(0, case["rows"] - 1).long()].to(arrays["out"].dtype)
        if not torch.equal(arrays["out"], expected):
            problems.append("rows are wrong")
        yield f"T={tokens}", problems


def bench_embed(bench: Bench, case: Case) -> Iterator[Case]:
    for tokens in (1, 32, 4096):
        arrays = embed_arrays(case, tokens)
        us = bench.time([bench.bind(case["kernels"][0], arrays, {"T": tokens})] * 50)
        yield {"label": f"{case['columns']} to {case['out']} T={tokens}", "us": us, "bytes": 2 * arrays["out"].nbytes}


def norm_arrays(case: Case, tokens: int) -> Arrays:
    x = torch.randn(tokens, case["columns"], device="cuda", dtype=torch.bfloat16)
    gain = 1 + 0.1 * torch.randn(case["columns"], device="cuda", dtype=torch.bfloat16)
    return {"x": x, "gain": gain, "out": torch.full_like(x, float("nan"))}


def check_norm(bench: Bench, case: Case) -> Iterator[tuple[str, list[str]]]:
    for tokens in (1, 5, 300):
        arrays = norm_arrays(case, tokens)
        problems = bench.run(case["kernels"], arrays, {"T": tokens})
        x = arrays["x"].float()
        expected = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * arrays["gain"].float()
        if not torch.allclose(arrays["out"].float(), expected, rtol=2**-7, atol=2**-9):
            problems.append("rows are wrong")
        yield f"T={tokens}", problems


def bench_norm(bench: Bench, case: Case) -> Iterator[Case]:
    for tokens in (1, 32, 4096):
        arrays = norm_arrays(case, tokens)
        us = bench.time([bench.bind(case["kernels"][0], arrays, {"T": tokens})] * 50)
        yield {"label": f"{case['columns']} T={tokens}", "us": us, "bytes": 2 * arrays["x"].nbytes}


# --- sampling


def sample_arrays(inputs: dict[str, np.ndarray]) -> Arrays:
    rows = len(inputs["logits"])
    results = {
        "tokens": torch.full((rows,), -9, dtype=torch.int32, device="cuda"),
        "logprobs": torch.full((rows,), float("nan"), device="cuda"),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(a)).cuda() for name, a in inputs.items()} | results


def sample_dims(arrays: Arrays) -> dict[str, int]:
    widths = {"H": "penalty_tokens", "B": "bias_tokens", "M": "banned_bits"}
    return {"R": len(arrays["logits"])} | {dim: arrays[name].shape[1] for dim, name in widths.items()}


def check_sample(bench: Bench, case: Case) -> Iterator[tuple[str, list[str]]]:
    if bench.small and case["vocab"] > 50000:
        return
    inputs, expected = sample_inputs(7, case["rows"], case["vocab"]), case["expected"]
    arrays = sample_arrays(inputs)
    problems = bench.run(case["kernels"], arrays, sample_dims(arrays))
    tokens, logprobs = arrays["tokens"].cpu().numpy(), arrays["logprobs"].cpu().numpy()
    wrong = (tokens != expected["tokens"]) & ~np.array(expected["ties"])
    for row in np.flatnonzero(wrong):
        settings = {n: np.round(inputs[n][row], 4).tolist() for n in ("temperature", "top_k", "top_p", "min_p")}
        problems.append(f"row {row}: token {tokens[row]}, not {expected['tokens'][row]} {settings}")
    if not np.allclose(logprobs[~wrong], np.array(expected["logprobs"])[~wrong], rtol=1e-5, atol=1e-4):
        problems.append("log-probabilities are wrong")
    yield f"V={case['vocab']} rows={case['rows']} ties={sum(expected['ties'])}", problems
    few = {name: a[3:5].copy() for name, a in inputs.items()}
    alone = sample_arrays(few)
    problems = bench.run(case["kernels"], alone, sample_dims(alone))
    if alone["tokens"].tolist() != tokens[3:5].tolist() or alone["logprobs"].tolist() != logprobs[3:5].tolist():
        problems.append("a row depends on its batch")
    yield "alone", problems
    if case["vocab"] > 100000:  # far more blocks than are resident, of which many wait for others
        crowd = sample_arrays({name: np.tile(a, (20, *[1] * (a.ndim - 1))) for name, a in inputs.items()})
        problems = bench.run(case["kernels"], crowd, sample_dims(crowd))
        if not torch.equal(crowd["tokens"], arrays["tokens"].repeat(20)):
            problems.append("rows depend on the crowd")
        yield "crowd", problems


def check_top_logprobs(bench: Bench, case: Case) -> Iterator[tuple[str, list[str]]]:
    logits = torch.from_numpy(sample_inputs(7, case["rows"], case["vocab"])["logits"]).cuda()
    logits[1] = logits[1].round()
    arrays = top_arrays(logits)
    problems = bench.run(case["kernels"], arrays, {"R": len(logits)})
    order = torch.sort(-logits.double(), dim=-1, stable=True).indices[:, :20]
    expected = logits.double().log_softmax(-1).gather(1, order)
    if not torch.equal(arrays["top_tokens"].long(), order):
        problems.append("tokens are wrong")
    if not torch.allclose(arrays["top_logprobs"].double(), expected, rtol=1e-5, atol=1e-4):
        problems.append("log-probabilities are wrong")
    yield f"V={case['vocab']}", problems


def top_arrays(logits: torch.Tensor) -> Arrays:
    rows = len(logits)
    tokens = torch.full((rows, 20), -9, dtype=torch.int32, device="cuda")
    return {"logits": logits, "top_tokens": tokens, "top_logprobs": torch.zeros(rows, 20, device="cuda")}


MODES: dict[str, dict[str, float]] = {
    "greedy": {},
    "temperature": {"temperature": 0.8},
    "top_p": {"temperature": 0.8, "top_p": 0.9},
    "top_k": {"temperature": 0.8, "top_k": 50},
    "top_k+top_p+min_p": {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.05},
    "penalties": {"repetition_penalty": 1.1, "presence_penalty": 0.5},
}


def bench_sample(bench: Bench, case: Case) -> Iterator[Case]:
    (name,) = case["kernels"]
    for rows in (1, 8, 32, 128):
        plain = sample_arrays(sample_inputs(3, rows, 1000, plain=True))
        copies = [
            torch.randn(rows, case["vocab"], device="cuda") * 2
            for _ in range(max(2, min(40, ROTATED // (4 * rows * case["vocab"]) + 1)))
        ]
        history = torch.randint(0, 1000, (rows, 300), device="cuda", dtype=torch.int32)
        for mode, changes in MODES.items():
            arrays = {n: torch.full_like(a, changes[n]) if n in changes else a for n, a in plain.items()}
            if mode == "penalties":
                arrays["penalty_tokens"] = history
            dims = sample_dims(arrays)
            temps = bench.temps(name, dims)
            us = bench.time([bench.bind(name, arrays | temps | {"logits": x}, dims) for x in copies])
            yield {"label": f"{mode} batch {rows}", "us": us, "bytes": copies[0].nbytes}


def bench_top_logprobs(bench: Bench, case: Case) -> Iterator[Case]:
    (name,) = case["kernels"]
    for rows in (1, 32, 128):
        arrays = top_arrays(torch.randn(rows, case["vocab"], device="cuda"))
        temps = bench.temps(name, {"R": rows})
        us = bench.time([bench.bind(name, arrays | temps, {"R": rows})] * 20)
        yield {"label": f"batch {rows}", "us": us, "bytes": arrays["logits"].nbytes}


# --- loops


def check_loops(bench: Bench, case: Case) -> Iterator[tuple[str, list[str]]]:
    data = np.load(bench.folder / case["data"])
    kinds = case["kinds"]
    given = {n: torch.from_numpy(np.ascontiguousarray(data[n])).cuda() for n in kinds}
    given = {n: a.view(torch.bfloat16) if kinds[n] == "bf16" else a for n, a in given.items()}
    arrays = {n: torch.full_like(a, 1) if n.startswith("out") else a for n, a in given.items()}
    problems = bench.run(case["kernels"], arrays, case["dims"])
    for name, expected in given.items():
        if not name.startswith("out") or case["losses"][name] is None:
            continue
        got = arrays[name]
        if kinds[name] not in TOLERANCES:
            if not torch.equal(got, expected):
                problems.append(f"{name} is wrong")
            continue
        relative, absolute = TOLERANCES[kinds[name]]
        bound = absolute + 16 * case["losses"][name]
        if not torch.allclose(got.double(), expected.double(), rtol=relative, atol=bound, equal_nan=True):
            worst = (got.double() - expected.double()).abs().max()
            problems.append(f"{name} is off by {worst:.3g}, allowed {bound:.3g}")
    yield case["name"], problems


CHECKS: dict[str, Callable[[Bench, Case], Iterator[tuple[str, list[str]]]]] = {
    "decode": check_attention,
    "ragged": check_attention,
    "hopper": check_attention,
    "rope": check_rope,
    "embed": check_embed,
    "norm": check_norm,
    "sample": check_sample,
    "top_logprobs": check_top_logprobs,
    "loops": check_loops,
}
TIMES: dict[str, Callable[[Bench, Case], Iterator[Case]]] = {
    "rope": bench_rope,
    "embed": bench_embed,
    "norm": bench_norm,
    "sample": bench_sample,
    "top_logprobs": bench_top_logprobs,
    "ragged": bench_ragged,
    "hopper": bench_ragged,
    "decode": bench_decode,
}


def check(bench: Bench, families: Sequence[str]) -> list[Case]:
    """All checks; prints the failures and one line per family."""
    rows: list[Case] = []
    for family in families:
        begin = time.monotonic()
        for case in (c for c in bench.cases if c["family"] == family and (c["use"] == "check" or family in SIMPLE)):
            try:
                for label, problems in CHECKS[family](bench, case):
                    rows.append({"family": family, "kernels": case["kernels"], "label": label, "problems": problems})
            except Exception as error:
                traceback.print_exc()
                rows.append({"family": family, "kernels": case["kernels"], "label": "?", "problems": [repr(error)]})
                if "ILLEGAL" in repr(error) or "LAUNCH_FAILED" in repr(error):
                    return rows
        mine = [row for row in rows if row["family"] == family]
        failed = [row for row in mine if row["problems"]]
        for row in failed:
            print("FAILED", row["kernels"], row["label"], row["problems"][:6], flush=True)
        print(f"{family}: {len(mine) - len(failed)} of {len(mine)} right, {time.monotonic() - begin:.1f} s", flush=True)
    return rows


SIMPLE = ("rope", "embed", "norm")


def benchmark(bench: Bench, families: Sequence[str], seconds: float) -> list[Case]:
    """Time what there is to time."""
    rows: list[Case] = []
    deadline = time.monotonic() + seconds
    for case in sorted((c for c in bench.cases if c["use"] == "bench"), key=lambda c: list(TIMES).index(c["family"])):
        if case["family"] not in families:
            continue
        if time.monotonic() > deadline:
            print("out of time", case["kernels"], flush=True)
            continue
        try:
            for row in TIMES[case["family"]](bench, case):
                rows.append({"family": case["family"], "kernel": case["kernels"][0], **row})
        except Exception as error:
            print("FAILED", case["kernels"], repr(error), flush=True)
        torch.cuda.empty_cache()
    return rows


def show(rows: list[Case]) -> None:
    """The fastest three kernels for each thing that was timed."""
    for family in dict.fromkeys(row["family"] for row in rows):
        mine = [row for row in rows if row["family"] == family]
        for label in dict.fromkeys(row["label"] for row in mine):
            for row in sorted((row for row in mine if row["label"] == label), key=lambda row: row["us"])[:3]:
                speed = f"{row['bytes'] / row['us'] / 1e6:5.2f} TB/s of {BANDWIDTH}" if "bytes" in row else ""
                speed += f"{row['flops'] / row['us'] / 1e6:6.1f} TFLOP/s of {PEAK}" if "flops" in row else ""
                print(f"{family:12} {label:32} {row['us']:9.2f} us  {speed}  {row['kernel']}")


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=["check", "bench"])
    parser.add_argument("--families", default=",".join(CHECKS))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=100, help="for timings")
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    bench = Bench(given.folder, given.small)
    families = given.families.split(",")
    checks = check(bench, families) if given.only != "bench" else []
    times = benchmark(bench, families, given.seconds) if given.only != "check" else []
    show(times)
    if given.out:
        given.out.write_text(json.dumps({"device": torch.cuda.get_device_name(), "checks": checks, "times": times}))
    failed = [row for row in checks if row["problems"]]
    print(f"{len(checks) - len(failed)} of {len(checks)} checks passed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
