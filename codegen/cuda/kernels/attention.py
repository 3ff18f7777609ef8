"""Which groups are paged attention, and the kernels that compute it for every mix of prompts and decodes."""

from __future__ import annotations

from warploom.codegen.cpu.kernels.groups import input_slot, kv_slot, only_op, result_slot, static
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Guard, Match, Slot, Step, Variant
from warploom.codegen.cuda.kernels.attention_problem import AttentionProblem
from warploom.codegen.cuda.kernels.decode_attention import DecodeAttentionSpec, decode_tile_for
from warploom.codegen.cuda.kernels.ragged_attention import RaggedAttentionSpec, tile_for
from warploom.codegen.cuda.target import K_LAYOUT, PAGE_SIZE
from warploom.ir.function import Function
from warploom.ir.ops.attention import attention
from warploom.ir.types import DType, type_of
from warploom.runtime.expr import Expr

KIND = "attention"
HEAD_DIMS = range(16, 257, 8)
MAX_GROUP = 16
END = 2**31 - 1


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernels of a group that is one `attention`, or why there are none."""
    operation = only_op(group, attention)
    if isinstance(operation, str):
        return operation
    q, kv, page_table, query_start, context_lens, *sinks = operation.operands
    attrs = attention.attrs_of(operation)
    if sinks or attrs["softcap"]:
        return "there are no kernels for sinks or capped scores yet"
    tokens, num_heads, head_dim = type_of(q).shape
    num_kv_heads = type_of(kv).shape[3]
    if attrs["page_size"] != PAGE_SIZE or attrs["k_layout"] != K_LAYOUT:
        return f"pages must be {PAGE_SIZE} tokens, {K_LAYOUT}; here {attrs['page_size']}, {attrs['k_layout']}"
    if {type_of(q).dtype, type_of(kv).dtype} != {DType.BF16}:
        return f"q and kv must be bf16; here {type_of(q)} and {type_of(kv)}"
    if head_dim not in HEAD_DIMS or static(num_heads) // static(num_kv_heads) > MAX_GROUP:
        return (
            f"heads must have 16 to 256 dims, a multiple of 8, and at most {MAX_GROUP} may share a kv head; "
            f"here {num_heads} of {head_dim} share {num_kv_heads}"
        )
    if attrs["scale"] <= 0:
        return f"the scale must be positive: the largest score is scaled after it is found; here {attrs['scale']}"
    problem = AttentionProblem(
        static(num_heads), static(num_kv_heads), static(head_dim), attrs["scale"], attrs["window"]
    )
    sequences, width = type_of(page_table).shape
    inputs = (
        input_slot(group, q),
        kv_slot(group, kv, attrs["layer"]),
        *(input_slot(group, value) for value in (page_table, query_start, context_lens)),
    )
    dims: dict[str, Expr] = {"T": str(tokens), "S": str(sequences), "P": str(width)}
    return lower(problem, inputs, result_slot(group, operation.results[0]), dims, target)


def lower(
    problem: AttentionProblem, inputs: tuple[Slot, ...], result: Slot, dims: dict[str, Expr], target: CudaTarget
) -> Match:
    """The launches of a problem: T = S means that every sequence decodes, else there are chunks of prompts.

    The choice is of speed alone: both kernels compute any batch in which T is at most S. They add in different orders,
    so only one of them is deterministic: the ragged.
    """
    ragged = Step(RaggedAttentionSpec(problem, tile_for(problem, target), target.has_tma), (*inputs, result), dims)
    if target.deterministic:
        return Match((Variant((ragged,)),))
    spec = DecodeAttentionSpec(problem, decode_tile_for(problem, target), target.has_tma)
    temps = tuple(Slot("temp", index) for index in range(len(spec.temps)))
    decode = Step(spec, (*inputs, *temps, result), dims)
    chunks = f"{dims['T']} - {dims['S']}"
    variants = (Variant((decode,), Guard(chunks, -END, 0)), Variant((ragged,), Guard(chunks, 1, END)))
    return Match(variants, spec.temps)
