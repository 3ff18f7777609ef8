"""Multi-head latent attention with absorbed weights (DeepSeek-V2, arXiv 2405.04434, section 2.1).

Keys and values of all heads are linear maps (`kv_b_proj`) of one latent per token, which is what the cache keeps, with
one rotated key that all heads share. Instead of mapping every latent of the context, queries are mapped to the latents
(W_UK^T q) and what attention mixes is mapped to values (W_UV): the same scores, as products associate.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.frontend.models.attention import Heads, Mixer, Place, halves_first, split_heads
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.dense import dense, project, width
from warploom.frontend.models.norms import Norm
from warploom.frontend.models.rope import Rotary, angles, read_rotary, score_factor
from warploom.frontend.models.weights import Weights
from warploom.ir.ops.head_linear import head_linear
from warploom.ir.ops.latent_attention import latent_attention, latent_write
from warploom.ir.ops.rope import rope
from warploom.ir.ops.shape import reshape, slice_axis, transpose
from warploom.ir.types import type_of


@dataclass(frozen=True)
class LatentHeads:
    """How the heads of a layer attend latents.

    Attributes:
        heads: how many.
        query_rank: of the latent of queries; 0: they are projected at once.
        latent: columns of the latent of keys and values.
        plain, rotated: columns of a query and a key without position, and with it.
        value: columns of a value.
        rotary: of `rotated` columns.
        scale: of scores.
        bias: of the projections from and to the residual stream.
    """

    heads: int
    query_rank: int
    latent: int
    plain: int
    rotated: int
    value: int
    rotary: Rotary
    scale: float
    bias: bool

    @property
    def row(self) -> int:
        """Numbers of a token in the cache."""
        return self.latent + self.rotated

    @property
    def rotation(self) -> Heads:
        """The rotated parts of queries as heads of their own."""
        return Heads(self.heads, 1, self.rotated, self.rotary)


def read_latent_heads(read: ConfigReader, interleaved: bool) -> LatentHeads:
    """Read the sizes under DeepSeek's names.

    Raises:
        UnsupportedModelError: a size is missing.
    """
    plain, rotated = read.integer("qk_nope_head_dim", 128), read.integer("qk_rope_head_dim", 64)
    rank = read.stated("q_lora_rank", 1536)
    read.ignore("num_key_value_heads", "head_dim", "qk_head_dim")  # which are not of the latents
    return LatentHeads(
        heads=read.integer("num_attention_heads"),
        query_rank=0 if rank is None else read.integer("q_lora_rank", rank),
        latent=read.integer("kv_lora_rank", 512),
        plain=plain,
        rotated=rotated,
        value=read.integer("v_head_dim", 128),
        rotary=read_rotary(read, rotated, interleaved=interleaved),
        scale=(plain + rotated) ** -0.5 * score_factor(read),
        bias=read.flag("attention_bias", False),
    )


def attend_latents(heads: LatentHeads, norm: Norm) -> Mixer:
    """Project, write a row per token, attend rows, project back; `norm` is of both latents."""

    def mix(weights: Weights, x: mlir.Value, place: Place) -> tuple[mlir.Value, mlir.Value]:
        step, paging = place.step, {"layer": place.index, "page_size": place.step.cache.page_size}
        tokens, turn = type_of(x).shape[0], angles(heads.rotary, step)
        plain, rotated = _queries(heads, norm, weights, x)
        latent, key = _latents(heads, weights / "kv_a_proj_with_mqa", x)
        key = reshape(rope(split_heads(key, 1, heads.rotated), *turn), shape=(tokens, heads.rotated))
        kv = latent_write(place.kv, norm(weights / "kv_a_layernorm", latent), key, step.slots, **paging)
        of_keys, of_values = _absorbed(heads, weights / "kv_b_proj")
        mixed = latent_attention(
            head_linear(split_heads(plain, heads.heads, heads.plain), of_keys, n=heads.latent),
            rope(split_heads(rotated, heads.heads, heads.rotated), *turn),
            *(kv, step.page_table, step.query_start, step.context_lens),
            **paging,
            scale=heads.scale,
        )
        values = reshape(head_linear(mixed, of_values, n=heads.value), shape=(tokens, heads.heads * heads.value))
        return dense(weights / "o_proj", values, width(x), bias=heads.bias), kv

    return mix


def _queries(heads: LatentHeads, norm: Norm, weights: Weights, x: mlir.Value) -> list[mlir.Value]:
    """[T, heads * plain] and [T, heads * rotated]: products with rows by part, which `merge_linears` makes one."""
    name = "q_proj"
    if heads.query_rank:
        x = norm(weights / "q_a_layernorm", dense(weights / "q_a_proj", x, heads.query_rank, bias=heads.bias))
        name = "q_b_proj"
    both, k = heads.plain + heads.rotated, width(x)
    each = reshape((weights / name)("weight", (heads.heads * both, k)), shape=(heads.heads, both, k))
    plain, rotated = (
        reshape(slice_axis(each, axis=1, start=start, stop=stop), shape=(heads.heads * (stop - start), k))
        for start, stop in ((0, heads.plain), (heads.plain, both))
    )
    return [project(x, plain), project(x, halves_first(rotated, heads.rotation))]


def _latents(heads: LatentHeads, module: Weights, x: mlir.Value) -> list[mlir.Value]:
    """The latent [T, latent] of keys and values before its norm, and the shared key [T, rotated] to be rotated."""
    parameters = [module("weight", (heads.row, width(x))), *([module("bias", (heads.row,))] if heads.bias else [])]
    latent = [slice_axis(p, axis=0, start=0, stop=heads.latent) for p in parameters]
    key = [halves_first(slice_axis(p, axis=0, start=heads.latent, stop=heads.row), heads.rotation) for p in parameters]
    return [project(x, *latent), project(x, *key)]


def _absorbed(heads: LatentHeads, module: Weights) -> tuple[mlir.Value, mlir.Value]:
    """By head: the transposed map from latents to keys, [heads * latent, plain]; that to values, [.. value, latent]."""
    count, latent, both = heads.heads, heads.latent, heads.plain + heads.value
    each = reshape(module("weight", (count * both, latent)), shape=(count, both, latent))
    keys = transpose(slice_axis(each, axis=1, start=0, stop=heads.plain), permutation=(0, 2, 1))
    values = slice_axis(each, axis=1, start=heads.plain, stop=both)
    return (
        reshape(keys, shape=(count * latent, heads.plain)),
        reshape(values, shape=(count * heads.value, latent)),
    )
