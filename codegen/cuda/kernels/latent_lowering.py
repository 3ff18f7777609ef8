"""Which groups are latent attention alone, and the kernels that compute them."""

from __future__ import annotations

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Match, Variant
from warploom.codegen.cuda.kernels.combine_latent import CombineSpec
from warploom.codegen.cuda.kernels.latent_attention import LatentAttentionSpec, decode_tile, ragged_tile
from warploom.codegen.cuda.kernels.latent_problem import LatentProblem, problem_of
from warploom.codegen.cuda.scope import Scope
from warploom.codegen.cuda.variants import consecutive
from warploom.codegen.groups import input_slot, kv_slot, only_op, result_slot
from warploom.ir.function import Function
from warploom.ir.ops.latent_attention import latent_attention
from warploom.ir.types import type_of

KIND = "latent_attention"


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernels of a group that is one `latent_attention`, or why there are none."""
    operation = only_op(group, latent_attention)
    if isinstance(operation, str):
        return operation
    problem = problem_of(operation)
    if isinstance(problem, str):
        return problem
    q_latent, q_rope, kv, *batch = operation.operands
    names = ("page_table", "query_start", "context_lens")
    values = {"q_latent": q_latent, "q_rope": q_rope, **dict(zip(names, batch, strict=True))}
    slots = {name: input_slot(group, value) for name, value in values.items()}
    slots |= {
        "kv": kv_slot(group, kv, latent_attention.attrs_of(operation)["layer"]),
        "out": result_slot(group, operation.results[0]),
    }
    sequences, width = type_of(batch[0]).shape
    scope = Scope(slots, {"T": str(type_of(q_latent).shape[0]), "S": str(sequences), "P": str(width)})
    return _lower(problem, scope, target)


def _lower(problem: LatentProblem, scope: Scope, target: CudaTarget) -> Match:
    """T = S means that every sequence decodes, else there are chunks of prompts; only the latter is deterministic."""
    ragged = (scope.step(LatentAttentionSpec(problem, ragged_tile(problem, target), target.has_tma)),)
    if target.deterministic:
        return Match((Variant(ragged),))
    spec = LatentAttentionSpec(problem, decode_tile(problem, target), target.has_tma)
    scope = scope.with_temps(operand.name for operand in spec.scratch)
    decode = (scope.step(spec), scope.step(CombineSpec(spec)))
    ranges = consecutive(f"{scope.dims['T']} - {scope.dims['S']}", (0, None))
    return Match(tuple(map(Variant, (decode, ragged), ranges)), spec.temps)
