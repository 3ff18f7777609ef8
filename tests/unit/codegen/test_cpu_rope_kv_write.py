"""The fused rotation and cache write against the numpy meaning of its ops: equal bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import mlir.ir as mlir
import numpy as np
import pytest

from tests.unit.codegen.cpu_harness import compiled, on_every_isa
from warploom.codegen.columns import Range
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.kernel import Match, Slot
from warploom.codegen.cpu.kernels.rope_kv_write import PAGE, RopeKvWriteSpec, match
from warploom.ir.dims import DimRange
from warploom.ir.function import Function, FunctionBuilder
from warploom.ir.ops.kv_write import kv_write
from warploom.ir.ops.rope import rope
from warploom.ir.ops.scaled_cache import scaled_kv_write
from warploom.ir.ops.shape import reshape, slice_axis
from warploom.ir.types import tensor

DTYPES = {
    "f32": np.dtype(np.float32),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "f8e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "i8": np.dtype(np.int8),
}


def fused(heads: int, kv_heads: int, size: int, dtype: str, rotary: int = 0) -> RopeKvWriteSpec:
    """q, k, v side by side in one projection."""
    stride = (heads + 2 * kv_heads) * size
    starts = (0, heads * size, (heads + kv_heads) * size)
    return RopeKvWriteSpec(heads, kv_heads, size, rotary or size, dtype, *(Range(start, stride) for start in starts))


def separate(heads: int, kv_heads: int, size: int, dtype: str) -> RopeKvWriteSpec:
    """Three projections."""
    kv = Range(0, kv_heads * size)
    return RopeKvWriteSpec(heads, kv_heads, size, size, dtype, Range(0, heads * size), kv, kv)


SPECS = [
    fused(9, 3, 64, "f32"),
    fused(9, 3, 64, "bf16"),
    fused(4, 2, 80, "bf16"),
    fused(2, 1, 128, "f32"),
    separate(3, 3, 16, "f32"),
    fused(3, 1, 64, "f32", rotary=16),
    fused(4, 2, 80, "bf16", rotary=20),
    fused(2, 2, 32, "f32", rotary=6),
    fused(4, 2, 64, "f8e4m3"),
    replace(fused(4, 2, 80, "f8e4m3", rotary=20), scaled=True),
    replace(fused(4, 2, 64, "f32"), scaled=True),
    fused(4, 2, 64, "i8"),
    fused(2, 2, 80, "i8", rotary=20),
    RopeKvWriteSpec(0, 2, 96, 96, "bf16", None, Range(7, 300), Range(0, 192)),
    RopeKvWriteSpec(0, 3, 48, 0, "f32", None, Range(0, 288), Range(144, 288)),
]


@on_every_isa
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
@pytest.mark.parametrize("tokens", [1, 40])
def test_rotation_and_write_are_their_meaning(spec: RopeKvWriteSpec, tokens: int, isa: Isa) -> None:
    rng = np.random.default_rng(tokens)
    sources = {r: rng.standard_normal((tokens, r.stride), np.float32) for r in {spec.q, spec.k, spec.v} if r}

    def read(part: Range, heads: int) -> np.ndarray:
        columns = sources[part][:, part.start : part.start + heads * spec.head_dim]
        return columns.reshape(tokens, heads, spec.head_dim)

    angles = rng.uniform(-3, 3, (tokens, spec.rotary_dim // 2)).astype(np.float32)
    cos, sin = np.cos(angles), np.sin(angles)
    slots = rng.permutation(6 * PAGE)[:tokens].astype(np.int32)
    slots[rng.random(tokens) < 0.2] = -1
    block = PAGE * (spec.head_dim + (1 if spec.kv_dtype == "i8" else 0))
    kv = (9 * rng.standard_normal((1, 6, 2, spec.num_kv_heads, block))).astype(DTYPES[spec.kv_dtype])
    v = read(spec.v, spec.num_kv_heads)
    v[0] = 0  # q, k and v may be one array
    k = rope.evaluate(read(spec.k, spec.num_kv_heads), cos, sin)
    paging: dict[str, Any] = {"layer": 0, "page_size": PAGE, "k_layout": "dim_major"}
    scales = rng.uniform(0.1, 2, (2, spec.num_kv_heads)).astype(np.float32)
    if spec.scaled:
        expected = scaled_kv_write.evaluate(kv, k, v, slots, scales, **paging)
    else:
        expected = kv_write.evaluate(kv, k, v, slots, **paging)
    rotated = np.full((tokens, spec.num_heads, spec.head_dim), np.nan, np.float32)
    tables = (*((cos, sin) if spec.rotary_dim else ()), slots, *((scales,) if spec.scaled else ()))
    arrays = [sources[spec.k], sources[spec.v], *tables, kv]
    if spec.q is not None:
        arrays = [sources[spec.q], *arrays, rotated]
    compiled(spec, isa)(arrays, {"T": tokens}, threads=2)
    np.testing.assert_array_equal(kv.view("u1"), expected.view("u1"))
    if spec.q is not None:
        np.testing.assert_array_equal(rotated, rope.evaluate(read(spec.q, spec.num_heads), cos, sin))


def group_of_projection(module: mlir.Module, rotate_k: bool = True, alike: bool = True) -> Function:
    """What the fusion pass makes of one fused projection [T, 6 * 32]: 4 heads of q, 1 of k, 1 of v; layer 2 of 3."""
    builder = FunctionBuilder(module, "group", {"T": DimRange(1, 8), "C": DimRange(1, 8)}, private=True)
    qkv, half = builder.input("0", tensor(("T", 192))), tensor(("T", 16))
    cos, kv = builder.input("1", half), builder.input("2", tensor((3, "C", 2, 1, PAGE * 32), "bf16"))
    slots, sin = builder.input("3", tensor(("T",), "i32")), builder.input("4", half)
    with builder.point:
        q, k, v = (
            reshape(slice_axis(qkv, axis=1, start=32 * i, stop=32 * j), shape=(*tensor(("T",)).shape, j - i, 32))
            for i, j in ((0, 4), (4, 5), (5, 6))
        )
        q, k = rope(q, cos, sin), rope(k, *((cos, sin) if alike else (sin, cos))) if rotate_k else k
        kv = kv_write(kv, k, v, slots, layer=2, page_size=PAGE, k_layout="dim_major")
    return builder.finish({"0": kv, "1": q})


@pytest.mark.usefixtures("wl")
def test_match_reads_slices_of_one_projection() -> None:
    module = mlir.Module.create()
    found = match(group_of_projection(module))
    assert isinstance(found, Match)
    assert found.spec == fused(4, 1, 32, "bf16")
    layer = Slot("input", 2, f"{2 * 2 * PAGE * 32 * 2}*C")
    inputs = [Slot("input", i, "0") for i in (0, 0, 0, 1, 4, 3)]
    assert found.operands == (*inputs, layer, Slot("result", 1))
    assert found.dims == {"T": "T"}


@pytest.mark.usefixtures("wl")
def test_match_says_what_it_refuses() -> None:
    module = mlir.Module.create()
    refusal = "of the group's results only the cache and one q, rotated as k, can be written"
    assert match(group_of_projection(module, rotate_k=False)) == refusal
    other = mlir.Module.create()
    assert match(group_of_projection(other, alike=False)) == refusal, "q and k by one pair of angles"
