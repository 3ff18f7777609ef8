"""Attention as the families build it: projections, norms of queries and keys, rotation, the paged cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import mlir.ir as mlir

from warploom.frontend.models.dense import dense, project, split, width
from warploom.frontend.models.inputs import StepInputs
from warploom.frontend.models.norms import Norm
from warploom.frontend.models.rope import Rotary, angles
from warploom.frontend.models.sizes import Sizes
from warploom.frontend.models.weights import Weights
from warploom.ir.attributes import AttrValue
from warploom.ir.ops.attention import attention
from warploom.ir.ops.elementwise import maximum, minimum
from warploom.ir.ops.kv_write import kv_write
from warploom.ir.ops.rope import rope
from warploom.ir.ops.shape import concat, full, reshape, slice_axis, transpose
from warploom.ir.types import type_of


@dataclass(frozen=True)
class Heads:
    """How the heads of one layer attend.

    Attributes:
        rotary: of queries and keys; None: they carry no position.
        scale: of scores; 0: head_dim ** -0.5.
        window: keys that a query sees, itself included; 0: all before it.
        softcap: bound of scores; 0: none.
        alibi: factor of what scores lose with distance (see `ir/ops/alibi.py`); 0: nothing.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary: Rotary | None = None
    scale: float = 0.0
    window: int = 0
    softcap: float = 0.0
    alibi: float = 0.0

    @classmethod
    def of(
        cls,
        sizes: Sizes,
        rotary: Rotary | None,
        *,
        scale: float = 0.0,
        window: int = 0,
        softcap: float = 0.0,
        alibi: float = 0.0,
    ) -> Heads:
        """The heads of a decoder."""
        return cls(sizes.heads, sizes.kv_heads, sizes.head_dim, rotary, scale, window, softcap, alibi)

    @property
    def widths(self) -> tuple[int, int, int]:
        """Columns of q, k and v."""
        kv = self.num_kv_heads * self.head_dim
        return self.num_heads * self.head_dim, kv, kv


@dataclass(frozen=True)
class Place:
    """Where a layer stands: in which step, at which index, with the cache that the layers before it left."""

    step: StepInputs
    index: int
    kv: mlir.Value


Mixer = Callable[[Weights, mlir.Value, Place], tuple[mlir.Value, mlir.Value]]  # x [T, hidden] -> the same, and kv
Project = Callable[[Weights, mlir.Value], tuple[mlir.Value, mlir.Value, mlir.Value]]  # -> q, k, v [T, heads, head_dim]


def self_attention(
    heads: Heads, project_qkv: Project, *, out: str = "o_proj", out_bias: bool = False, sinks: bool = False
) -> Mixer:
    """Project, attend (with the module's `sinks` if it has them), project back."""

    def mix(weights: Weights, x: mlir.Value, place: Place) -> tuple[mlir.Value, mlir.Value]:
        sink = weights("sinks", (heads.num_heads,)) if sinks else None
        mixed, kv = attend(heads, *project_qkv(weights, x), place, sink)
        return dense(weights / out, mixed, width(x), bias=out_bias), kv

    return mix


def separate(
    heads: Heads, *, bias: bool = False, qk_norm: Norm | None = None, norm_all: bool = False, norm_name: str = "norm"
) -> Project:
    """`q_proj`, `k_proj` and `v_proj`, with `q_norm` and `k_norm` of each head, or of all at once (OLMo 2)."""

    def heads_of(weights: Weights, x: mlir.Value, name: str, count: int) -> mlir.Value:
        y = _rows(heads, weights / f"{name}_proj", x, count, bias, rotated=name != "v")
        norm = None if name == "v" else qk_norm
        if norm is not None and norm_all:
            y = norm(weights / f"{name}_{norm_name}", y)
        y = split_heads(y, count, heads.head_dim)
        return y if norm is None or norm_all else norm(weights / f"{name}_{norm_name}", y)

    def project_qkv(weights: Weights, x: mlir.Value) -> tuple[mlir.Value, mlir.Value, mlir.Value]:
        counts = {"q": heads.num_heads, "k": heads.num_kv_heads, "v": heads.num_kv_heads}
        q, k, v = (heads_of(weights, x, name, count) for name, count in counts.items())
        return q, k, v

    return project_qkv


def together(heads: Heads, name: str, *, bias: bool = False, by_kv_head: bool = False) -> Project:
    """One projection of q, k and v: all q, all k, all v; or for each kv head its queries, its key, its value."""

    def project_qkv(weights: Weights, x: mlir.Value) -> tuple[mlir.Value, mlir.Value, mlir.Value]:
        module, n = weights / name, sum(heads.widths)
        parameters = [module("weight", (n, width(x))), *([module("bias", (n,))] if bias else [])]
        y = project(x, *(_by_part(p, heads) if by_kv_head else p for p in parameters))
        q, k, v = split(y, heads.widths)
        counts = (heads.num_heads, heads.num_kv_heads, heads.num_kv_heads)
        q, k, v = (split_heads(part, n, heads.head_dim) for part, n in zip((q, k, v), counts, strict=True))
        return q, k, v

    return project_qkv


def clipped(project: Project, bound: float) -> Project:
    """Queries, keys and values of `project`, none of which is beyond `bound`; 0: there is no bound (MPT, OLMoE)."""

    def project_qkv(weights: Weights, x: mlir.Value) -> tuple[mlir.Value, mlir.Value, mlir.Value]:
        q, k, v = (_clip(value, bound) for value in project(weights, x))
        return q, k, v

    return project_qkv if bound else project


def attend(
    heads: Heads, q: mlir.Value, k: mlir.Value, v: mlir.Value, place: Place, sinks: mlir.Value | None = None
) -> tuple[mlir.Value, mlir.Value]:
    """Rotate q and k, write k and v to the cache, attend it.

    Args:
        heads: of the layer.
        q: [T, num_heads, head_dim].
        k: [T, num_kv_heads, head_dim].
        v: as k.
        place: of the layer.
        sinks: [num_heads], or None.

    Returns:
        [T, num_heads * head_dim], and kv.
    """
    step = place.step
    paging: dict[str, AttrValue] = {
        "layer": place.index,
        "page_size": step.cache.page_size,
        "k_layout": step.cache.k_layout,
    }
    if heads.rotary is not None:
        rotation = angles(heads.rotary, step)
        q, k = rope(q, *rotation), rope(k, *rotation)
    kv = kv_write(place.kv, k, v, step.slots, **paging)
    pages = (step.page_table, step.query_start, step.context_lens, *(() if sinks is None else (sinks,)))
    scale = heads.scale or heads.head_dim**-0.5
    window = heads.window if heads.window < step.max_context else 0  # which is no window
    mixed = attention(q, kv, *pages, **paging, scale=scale, window=window, softcap=heads.softcap, alibi=heads.alibi)
    return reshape(mixed, shape=(type_of(q).shape[0], heads.num_heads * heads.head_dim)), kv


def split_heads(x: mlir.Value, count: int, size: int) -> mlir.Value:
    """[T, count * size] as [T, count, size]."""
    result: mlir.Value = reshape(x, shape=(type_of(x).shape[0], count, size))
    return result


def halves_first(value: mlir.Value, heads: Heads) -> mlir.Value:
    """Rows [count * head_dim, ..] of q or k, reordered where pairs are neighbours: evens before odds.

    Scores do not depend on the order of a head's elements, and a rotation of pairs (i, i + dim / 2) is what kernels
    have. The reordering is of parameters, and so is done at compile time.
    """
    if heads.rotary is None or not heads.rotary.interleaved:
        return value
    rows, *rest = shape = type_of(value).shape
    assert isinstance(rows, int)
    dim, count = heads.rotary.dim, rows // heads.head_dim
    each = reshape(value, shape=(count, heads.head_dim, *rest))
    rotated = reshape(slice_axis(each, axis=1, start=0, stop=dim), shape=(count, dim // 2, 2, *rest))
    order = (0, 2, 1, *range(3, 3 + len(rest)))
    parts = [reshape(transpose(rotated, permutation=order), shape=(count, dim, *rest))]
    if dim < heads.head_dim:
        parts.append(slice_axis(each, axis=1, start=dim, stop=heads.head_dim))
    result: mlir.Value = reshape(concat(*parts, axis=1), shape=shape)
    return result


def _clip(value: mlir.Value, bound: float) -> mlir.Value:
    type_ = type_of(value)
    high, low = (full(shape=type_.shape, value=end, dtype=type_.dtype.value) for end in (bound, -bound))
    result: mlir.Value = maximum(minimum(value, high), low)
    return result


def _rows(heads: Heads, module: Weights, x: mlir.Value, count: int, bias: bool, *, rotated: bool) -> mlir.Value:
    n = count * heads.head_dim
    parameters = [module("weight", (n, width(x))), *([module("bias", (n,))] if bias else [])]
    return project(x, *(halves_first(p, heads) if rotated else p for p in parameters))


def _by_part(value: mlir.Value, heads: Heads) -> mlir.Value:
    """Rows [kv_heads * (group + 2) * head_dim, ..] as all of q, then all of k, then all of v."""
    group, shape = heads.num_heads // heads.num_kv_heads, type_of(value).shape
    each = reshape(value, shape=(heads.num_kv_heads, (group + 2) * heads.head_dim, *shape[1:]))
    ends = [0, *(n * heads.head_dim for n in (group, group + 1, group + 2))]
    parts = [slice_axis(each, axis=1, start=a, stop=b) for a, b in pairwise(ends)]
    flat = [reshape(p, shape=(n, *shape[1:])) for p, n in zip(parts, heads.widths, strict=True)]
    result: mlir.Value = concat(*flat, axis=0)
    return result
