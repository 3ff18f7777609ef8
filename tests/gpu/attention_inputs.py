"""Operands of attention on the GPU machine, and what it means, in f32. For `attention_checks.py`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from tests.gpu.kernel_bench import TORCH, Arrays, Case

PAGE = 64


def paged(problem: Case, contexts: Sequence[int], width: int) -> Arrays:
    """A cache of random pages in random order, NaN (or a large number) where no token is."""
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
    return {"kv": stored(problem, kv), "page_table": torch.from_numpy(table).cuda()}


def stored(problem: Case, pages: torch.Tensor) -> torch.Tensor:
    """Pages [C, 2, kv_heads, PAGE, D] as the cache has them; i8: [C, 2, kv_heads, PAGE * (D + 1)]."""
    if problem["kv"] != "i8":
        return pages.to(TORCH[problem["kv"]])
    wide = pages.float().nan_to_num(1e30)
    exponents = (wide.abs().amax(-1, keepdim=True).view(torch.int32) >> 23).sub(133).clamp(min=-126)
    numbers = torch.ldexp(wide, -exponents).round().clamp(-127, 127)
    return torch.cat([numbers.flatten(-2), exponents.flatten(-2)], -1).to(torch.int8)


def held(problem: Case, kv: torch.Tensor) -> torch.Tensor:
    """What a cache stands for, bf16 [C, 2, kv_heads, PAGE, D]."""
    if problem["kv"] != "i8":
        return kv.to(torch.bfloat16, copy=True)
    numbers, exponents = kv.float().split([PAGE * problem["head_dim"], PAGE], -1)
    return torch.ldexp(numbers.unflatten(-1, (PAGE, -1)), exponents[..., None]).bfloat16()


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
    scales = 0.3 + torch.rand(2, problem["num_kv_heads"], device="cuda") if problem["scaled"] else None
    return {
        "q": q,
        "sinks": sinks,
        **({} if scales is None else {"scales": scales}),
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
    empty, full = (held(problem, given["kv"]).float() for _ in range(2))  # rounded once, when stored
    keys, values = rotated[:, heads : heads + kv_heads], qkv.view(tokens, -1, size)[:, heads + kv_heads :]
    if problem["scaled"]:
        keys, values = (x / s[:, None] for x, s in zip((keys, values), given["scales"], strict=True))
    for which, new in ((0, keys), (1, values)):
        empty[live // PAGE, which, :, live % PAGE] = float("nan")
        full[live // PAGE, which, :, live % PAGE] = new[: starts[-1]].float()
    empty, full = stored(problem, empty), stored(problem, full)
    fresh = {"q": qkv, "k": qkv, "v": qkv, "cos": cos, "sin": sin, "slots": slots, "kv": empty}
    return given | fresh, given | {"q": rotated[:, :heads], "kv": full}


def attention(problem: Case, arrays: Arrays) -> torch.Tensor:
    """The meaning, in f32, sequence by sequence and kv head by kv head."""
    pages = held(problem, arrays["kv"])
    q, out = arrays["q"].float(), torch.zeros_like(arrays["q"], dtype=torch.float32)
    group = problem["num_heads"] // problem["num_kv_heads"]
    scales = arrays["scales"] if problem["scaled"] else torch.ones(2, problem["num_kv_heads"])
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
            k, v = (cache[:, i, h].reshape(-1, problem["head_dim"])[:context] * scales[i, h] for i in (0, 1))
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


def dims_of(arrays: Arrays) -> dict[str, int]:
    table = arrays["page_table"]
    return {"T": len(arrays["q"]), "S": len(table), "P": table.shape[1], "C": len(arrays["kv"])}
