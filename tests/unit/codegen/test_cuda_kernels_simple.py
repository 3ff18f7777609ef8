"""Rotary embedding with KV writes, and embedding, on CUDA: sources in Triton's interpreter against their meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.unit.codegen.triton_interpreter import run_kernel
from warploom.codegen.columns import Range
from warploom.codegen.cuda.kernels.embed import EmbedSpec
from warploom.codegen.cuda.kernels.linear_problem import Weight
from warploom.codegen.cuda.kernels.projection import Projection
from warploom.codegen.cuda.kernels.rope_kv_write import RopeKvWriteSpec
from warploom.ir.layouts import pack_array
from warploom.ir.ops.dequantize import dequantize
from warploom.ir.ops.kv_write import kv_write
from warploom.ir.ops.rope import rope
from warploom.ir.types import DType

PAGE = 64


def close(actual: np.ndarray, expected: np.ndarray, dtype: DType) -> None:
    """One rounding apart at most."""
    tolerance = {DType.F32: 1e-6, DType.BF16: 2.0**-7, DType.F8: 2.0**-4}[dtype]
    np.testing.assert_allclose(actual.astype(np.float64), expected, rtol=tolerance, atol=tolerance / 4)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "rotary", "x", "kv"),
    [
        (6, 2, 64, 64, DType.BF16, DType.BF16),
        (9, 3, 80, 80, DType.BF16, DType.BF16),
        (3, 3, 80, 20, DType.BF16, DType.BF16),
        (1, 1, 16, 16, DType.F32, DType.BF16),
        (5, 5, 96, 96, DType.F32, DType.F32),
        (0, 2, 128, 64, DType.BF16, DType.BF16),
        (0, 5, 96, 0, DType.BF16, DType.BF16),
        (2, 2, 64, 64, DType.BF16, DType.F8),
        (2, 5, 80, 20, DType.BF16, DType.I8),
        (0, 2, 64, 0, DType.F32, DType.I8),
    ],
    ids=str,
)
@pytest.mark.parametrize(("fused", "scaled"), [(True, False), (False, False), (True, True)])
def test_rope_kv_write_is_its_meaning(
    heads: int, kv_heads: int, size: int, rotary: int, x: DType, kv: DType, fused: bool, scaled: bool
) -> None:
    if scaled and kv is DType.I8:
        return
    rng = np.random.default_rng(2)
    tokens, counts = 5, {"q": heads, "k": kv_heads, "v": kv_heads}
    width = sum(counts.values()) * size
    packed = rng.standard_normal((tokens, width)).astype(x.numpy)
    begin = dict(zip(counts, np.cumsum([0, *counts.values()]) * size, strict=False))
    parts = {n: packed[:, begin[n] : begin[n] + counts[n] * size].reshape(tokens, -1, size) for n in counts}
    ranges = {n: Range(int(begin[n]), width) if fused else Range(0, counts[n] * size) for n in counts}
    sources = {n: packed if fused else np.ascontiguousarray(parts[n]).reshape(tokens, -1) for n in counts}
    projection = Projection(ranges["q"] if heads else None, ranges["k"], ranges["v"], rotary // 2)
    spec = RopeKvWriteSpec(heads, kv_heads, size, x, kv, projection, pdl=False, scaled=scaled)
    scales = rng.uniform(0.5, 2, (2, kv_heads)).astype(np.float32)
    angle = rng.uniform(0, 6, (tokens, rotary // 2))
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    slots = np.array([3 * PAGE + 5, -1, 0, PAGE - 1, 2 * PAGE], np.int32)
    cache = rng.uniform(-4, 4, (4, 2, kv_heads, PAGE * (size + (kv is DType.I8)))).astype(kv.numpy)
    before, rotated = cache.copy(), np.full((tokens, heads, size), np.nan, x.numpy)
    arrays = [sources["k"], sources["v"], *([cos, sin] if rotary else []), slots, *([scales] if scaled else []), cache]
    run_kernel(spec, [sources["q"], *arrays, rotated] if heads else arrays, {"T": tokens})

    wide: dict[str, Any] = {n: part.astype(np.float64) for n, part in parts.items()}
    angles = cos.astype(np.float64), sin.astype(np.float64)
    close(rotated, rope.evaluate(wide["q"], *angles), x)
    paging: dict[str, Any] = {"layer": 0, "page_size": PAGE, "k_layout": "token_major"}
    if kv is DType.I8:
        keys = rope.evaluate(wide["k"], *angles).astype(x.numpy).astype(np.float64)
        expected = kv_write.evaluate(before[None], keys, wide["v"], slots, **paging)
        apart = np.abs(cache.astype(np.int32) - expected[0])
        assert apart.max() <= 1
        assert not apart[:, 1].any()
        assert apart.mean() < 1e-3
        return
    keys, values = rope.evaluate(wide["k"], *angles), wide["v"]
    if scaled:
        keys, values = keys / scales[0][:, None], values / scales[1][:, None]
    expected = kv_write.evaluate(before[None].astype(np.float64), keys, values, slots, **paging)
    close(cache, expected[0], kv if kv is not DType.F32 else x)


@pytest.mark.parametrize("scaled", [False, True])
def test_fresh_numbers_are_those_of_the_cache(scaled: bool) -> None:
    """To the bit, in the order of tokens; nothing for tokens that have no slot."""
    rng = np.random.default_rng(4)
    tokens, kv_heads, size = 5, 3, 64
    packed = rng.standard_normal((tokens, 2 * kv_heads * size)).astype(DType.BF16.numpy)
    keys, values = Range(0, packed.shape[1]), Range(kv_heads * size, packed.shape[1])
    projection = Projection(None, keys, values, 0)
    spec = RopeKvWriteSpec(0, kv_heads, size, DType.BF16, DType.F8, projection, pdl=False, scaled=scaled, fresh=True)
    scales = rng.uniform(0.5, 2, (2, kv_heads)).astype(np.float32)
    slots = np.array([PAGE + 5, -1, 0, PAGE - 1, 2 * PAGE], np.int32)
    cache = np.zeros((3, 2, kv_heads, PAGE, size), DType.F8.numpy)
    fresh = np.full((tokens, 2, kv_heads, size), np.nan, np.float16)
    run_kernel(spec, [packed, packed, slots, *([scales] if scaled else []), cache, fresh], {"T": tokens})
    written = slots >= 0
    stored = cache[slots[written] // PAGE, :, :, slots[written] % PAGE]
    np.testing.assert_array_equal(fresh[written], stored.astype(np.float16))
    assert stored.astype(np.float32).any(axis=(1, 2, 3)).all()
    assert np.isnan(fresh[~written]).all()


@pytest.mark.parametrize(
    "table",
    [
        Weight(DType.BF16),
        Weight(DType.F32),
        Weight(DType.I8, 1),
        Weight(DType.F8, 1),
        Weight(DType.I8, 4, DType.F16),
        Weight(DType.I4, 2, DType.F16),
        Weight(DType.I4, 4, DType.BF16, offset=True),
    ],
    ids=lambda weight: weight.name,
)
@pytest.mark.parametrize("out", [DType.F32, DType.BF16])
@pytest.mark.parametrize("columns", [64, 1120])
def test_embed_is_its_meaning(table: Weight, out: DType, columns: int) -> None:
    rng = np.random.default_rng(3)
    spec = EmbedSpec(9, columns, table, out, pdl=False)
    stored = rng.standard_normal((9, columns)).astype(DType.F32.numpy)
    if table.dtype in (DType.I8, DType.I4):
        stored = rng.integers(-8, 8, (9, columns)).astype(np.int8)
    elif table.dtype is not DType.F32:
        stored = stored.astype(table.dtype.numpy)
    w = pack_array(stored, "row4") if table.dtype is DType.I4 else stored
    sides = [rng.uniform(0.5, 2, (9, table.groups)).astype(table.scale.numpy) for _ in table.operands[1:]]
    ids, result = np.array([0, 8, -1, 100, 3], np.int32), np.zeros((5, columns), out.numpy)
    run_kernel(spec, [ids, w, *sides, result], {"T": 5})
    values = dequantize.evaluate(stored, *(side.astype(np.float64) for side in sides)) if sides else stored
    close(result, values[np.clip(ids, 0, 8)].astype(np.float64), out)
