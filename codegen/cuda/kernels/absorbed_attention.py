"""Latent attention with the maps of its queries and of its results: absorbed weights, or expanded keys in long chunks.

A decode maps queries to latents, attends rows as they are, and maps what it attended to values. Steps with long chunks
of prompts do so only with what is not expanded (see `expansion.py`), then expand, then attend the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.codegen.columns import Columns, Range, columns_of
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import CudaKernelSpec, Match, Step, Temp, Variant
from warploom.codegen.cuda.kernels import hopper_expanded_attention, hopper_latent_decode
from warploom.codegen.cuda.kernels.combine_latent import CombineSpec
from warploom.codegen.cuda.kernels.expand_latents import ExpandLatentsSpec, expand_tile
from warploom.codegen.cuda.kernels.expanded_attention import ExpandedAttentionSpec, ExpandedProblem, expanded_tile
from warploom.codegen.cuda.kernels.expansion import Expansion, room_for
from warploom.codegen.cuda.kernels.head_linear import FEW, HeadLinearSpec, HeadTile, few_tile, many_tile
from warploom.codegen.cuda.kernels.latent_attention import LatentAttentionSpec, decode_tile, ragged_tile
from warploom.codegen.cuda.kernels.latent_problem import LatentProblem, problem_of
from warploom.codegen.cuda.scope import Scope
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.codegen.cuda.variants import consecutive
from warploom.codegen.groups import input_slot, kv_slot, result_slot, static
from warploom.ir.dims import DimLike
from warploom.ir.function import Function
from warploom.ir.ops.head_linear import head_linear
from warploom.ir.ops.latent_attention import latent_attention
from warploom.ir.rewrite import is_op, producer
from warploom.ir.types import DType, tensor, type_of

KIND = "absorbed_attention"
LONG = 256  # tokens of a step with chunks, from which on keys are expanded
CHUNKS = 1 << 20  # more than a step has tokens
MOST_NUMBERS = 2**31 - 1  # that kernels count
WEIGHTS = DType.BF16, DType.F32


@dataclass(frozen=True, slots=True)
class AbsorbedProblem:
    """out [T, heads, value] for queries that are columns of a matrix, and rotated ones.

    Attributes:
        tokens: T.
        weights: dtypes of the maps of queries and of results.
    """

    attention: LatentProblem
    expansion: Expansion
    tokens: DimLike
    queries: Range
    weights: tuple[DType, DType]

    @property
    def temps(self) -> dict[str, Temp]:
        """By the names of operands: what kernels hand to one another."""
        p, tokens = self.attention, self.tokens
        latents = Temp(tensor((tokens, p.num_heads, p.latent), DType.BF16))
        expanded = zip(self.expansion.operands, self.expansion.shapes, strict=True)
        return {
            "q_latent": latents,
            "mixed": latents,
            "lse": Temp(tensor((tokens, p.num_heads), DType.F32)),
            **{operand.name: Temp(tensor(shape, operand.dtype)) for operand, shape in expanded},
        }


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernels of a group that is a `latent_attention` between two `head_linear`, or why there are none."""
    attends = next((op for op in group.ops if is_op(op, latent_attention)), None)
    maps = [op for op in group.ops if is_op(op, head_linear)]
    if attends is None or len(maps) != 2 or list(group.results.values()) != [maps[1].results[0]]:
        return "takes a latent_attention between two head_linear"
    if producer(attends.operands[0], head_linear) != maps[0] or maps[1].operands[0] != attends.results[0]:
        return "queries are mapped to latents by one head_linear, what is attended to values by the other"
    if target.deterministic:
        return "which keys are expanded depends on the other sequences of a step"
    problem = _problem(group, attends, maps)
    return problem if isinstance(problem, str) else lower(problem, _scope(group, attends, maps), target)


def _problem(group: Function, attends: mlir.Operation, maps: list[mlir.Operation]) -> AbsorbedProblem | str:
    attention, queries = problem_of(attends), columns_of(maps[0].operands[0])
    weights = type_of(maps[0].operands[1]).dtype, type_of(maps[1].operands[1]).dtype
    if isinstance(attention, str) or isinstance(queries, str):
        return attention if isinstance(attention, str) else str(queries)
    if type_of(queries.matrix).dtype is not DType.BF16 or not set(weights) <= set(WEIGHTS):
        return f"queries must be bf16, weights bf16 or f32; here {type_of(queries.matrix)}, {weights}"
    plain, value = static(type_of(maps[0].operands[0]).shape[2]), head_linear.attrs_of(maps[1])["n"]
    if plain % 8 or value % 8:
        return f"keys of {plain} and values of {value} numbers are no multiples of 8"
    tokens, context = group.dims["T"].max, group.dims["P"].max * PAGE_SIZE
    room = room_for(attention.num_heads, plain, value, tokens, context)
    expansion = Expansion(room, attention.num_heads, attention.latent, plain, attention.rotated, value)
    if max(room, tokens) * attention.num_heads * max(plain, value) >= MOST_NUMBERS:
        return f"{room} expanded keys of {attention.num_heads} heads are more numbers than kernels count"
    return AbsorbedProblem(attention, expansion, type_of(queries.matrix).shape[0], queries.range, weights)


def _scope(group: Function, attends: mlir.Operation, maps: list[mlir.Operation]) -> Scope:
    _, q_rope, kv, page_table, query_start, context_lens = attends.operands
    values = {"page_table": page_table, "query_start": query_start, "context_lens": context_lens}
    queries = columns_of(maps[0].operands[0])
    assert isinstance(queries, Columns)
    values |= {"q": queries.matrix, "q_rope": q_rope}
    values |= {"of_keys": maps[0].operands[1], "of_values": maps[1].operands[1]}
    slots = {name: input_slot(group, value) for name, value in values.items()}
    slots |= {"kv": kv_slot(group, kv, latent_attention.attrs_of(attends)["layer"])}
    slots |= {"out": result_slot(group, maps[1].results[0])}
    sequences, width = type_of(page_table).shape
    return Scope(slots, {"T": str(type_of(queries.matrix).shape[0]), "S": str(sequences), "P": str(width)})


def lower(problem: AbsorbedProblem, scope: Scope, target: CudaTarget) -> Match:
    """T = S means that every sequence decodes, else there are chunks of prompts.

    The choice is by tokens, and CHUNKS more if there are chunks.
    """
    pdl = target.has_tma
    decode = _decode(problem.attention, target)
    ragged = LatentAttentionSpec(problem.attention, ragged_tile(problem.attention, target), pdl)
    scratch = {o.name: temp for o, temp in zip(decode.scratch, decode.temps, strict=True)}
    temps = problem.temps | scratch
    scope = scope.with_temps(temps)

    def absorbed(few: bool, *attention: CudaKernelSpec) -> tuple[Step, ...]:
        to_latents, to_values = _maps(problem, few, pdl)
        attended = (scope.step(spec, out="mixed") for spec in attention)
        return (
            scope.step(to_latents, x="q", weight="of_keys", out="q_latent"),
            *attended,
            scope.step(to_values, x="mixed", weight="of_values"),
        )

    value = f"{CHUNKS} * max(0, min(1, {scope.dims['T']} - {scope.dims['S']})) + {scope.dims['T']}"
    ways = {
        FEW: absorbed(True, decode, CombineSpec(decode)),
        CHUNKS: absorbed(False, decode, CombineSpec(decode)),
        CHUNKS + FEW: absorbed(True, ragged),
        CHUNKS + LONG - 1: absorbed(False, ragged),
        None: _expanded(problem, scope, target),
    }
    return Match(tuple(map(Variant, ways.values(), consecutive(value, ways))), tuple(temps.values()))


def _decode(attention: LatentProblem, target: CudaTarget) -> LatentAttentionSpec:
    """The kernel of single tokens."""
    if hopper_latent_decode.takes(attention, target):
        return hopper_latent_decode.HopperLatentDecodeSpec(attention, hopper_latent_decode.TILE, target.has_tma)
    return LatentAttentionSpec(attention, decode_tile(attention, target), target.has_tma)


def _maps(
    problem: AbsorbedProblem, few: bool, pdl: bool, but: Expansion | None = None
) -> tuple[HeadLinearSpec, HeadLinearSpec]:
    """From queries to latents, and from latents to values."""
    e, heads = problem.expansion, problem.attention.num_heads

    def tile(n: int, k: int) -> HeadTile:
        return few_tile(n, k) if few else many_tile(n, k)

    mixed = Range(0, heads * e.latent)
    of_keys, of_values = problem.weights
    return (
        HeadLinearSpec(heads, e.latent, e.plain, of_keys, problem.queries, tile(e.latent, e.plain), pdl, but),
        HeadLinearSpec(heads, e.value, e.latent, of_values, mixed, tile(e.value, e.latent), pdl, but),
    )


def _expanded(problem: AbsorbedProblem, scope: Scope, target: CudaTarget) -> tuple[Step, ...]:
    """What is not expanded first, where that is anything."""
    e, pdl = problem.expansion, target.has_tma
    rest = LatentAttentionSpec(problem.attention, ragged_tile(problem.attention, target), pdl, e)
    to_latents, to_values = _maps(problem, False, pdl, e)
    expanded = ExpandedProblem(e, problem.queries, problem.attention.scale)
    attention: CudaKernelSpec = ExpandedAttentionSpec(expanded, expanded_tile(expanded, target), pdl)
    if hopper_expanded_attention.takes(e, target):
        attention = hopper_expanded_attention.HopperExpandedAttentionSpec(expanded)
    return (
        scope.step(to_latents, x="q", weight="of_keys", out="q_latent"),
        scope.step(rest, out="mixed"),
        scope.step(to_values, x="mixed", weight="of_values"),
        scope.step(ExpandLatentsSpec(e, problem.weights, expand_tile(target), pdl, problem.attention.kv)),
        scope.step(attention),
    )
