"""Checks and timings of rotary embedding, embedding and norm. For `run_kernels.py`."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tests.gpu.attention_inputs import PAGE
from tests.gpu.kernel_bench import TORCH, Arrays, Bench, Case


def check_rope(bench: Bench, case: Case) -> Iterator[tuple[str, list[str]]]:
    shape = case["shape"]
    heads, kv_heads, size = shape["heads"], shape["kv_heads"], shape["head_dim"]
    for tokens in (7,) if bench.small else (1, 2, 7, 64, 300):
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
        "w": table,
        "out": torch.zeros(tokens, case["columns"], device="cuda").to(TORCH[case["out"]]),
    }


def check_embed(bench: Bench, case: Case) -> Iterator[tuple[str, list[str]]]:
    for tokens in (5,) if bench.small else (1, 5, 300):
        arrays = embed_arrays(case, tokens)
        problems = bench.run(case["kernels"], arrays, {"T": tokens})
        expected = arrays["w"][arrays["ids"].clamp(0, case["rows"] - 1).long()].to(arrays["out"].dtype)
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
    for tokens in (5,) if bench.small else (1, 5, 300):
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
