"""Which groups are paged attention, and the kernels that compute it for every mix of prompts and decodes.

A group is `attention` alone, or with the rotations and the cache write before it: then a decode is one launch, and a
prompt two, of which the second rotates q.
"""

from __future__ import annotations

from dataclasses import replace

import mlir.ir as mlir

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import CudaKernelSpec, Match, Step, Temp, Variant
from warploom.codegen.cuda.kernels import hopper_attention
from warploom.codegen.cuda.kernels.attention_problem import AttentionProblem
from warploom.codegen.cuda.kernels.decode_attention import DecodeAttentionSpec, decode_tile_for, few_sequences
from warploom.codegen.cuda.kernels.projection import Projected, projected
from warploom.codegen.cuda.kernels.ragged_attention import RaggedAttentionSpec, tile_for
from warploom.codegen.cuda.kernels.rope_kv_write import RopeKvWriteSpec
from warploom.codegen.cuda.scope import Scope
from warploom.codegen.cuda.target import K_LAYOUT, PAGE_SIZE
from warploom.codegen.cuda.variants import consecutive
from warploom.codegen.groups import input_slot, kv_slot, only_op, result_slot, static
from warploom.ir.function import Function
from warploom.ir.ops.attention import attention
from warploom.ir.ops.kv_write import kv_write
from warploom.ir.ops.scaled_cache import ATTENTIONS, WRITES, parts_of
from warploom.ir.rewrite import is_op, producer
from warploom.ir.types import DType, type_of

KIND = "attention"
HEAD_DIMS = range(16, 257, 8)
MAX_GROUP = 16
PROMPTS = 1 << 20  # more than there are sequences


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernels of a group that is one `attention`, with or without what it attends, or why there are none."""
    operation = next((op for op in group.ops if is_op(op, *ATTENTIONS)), None)
    if operation is None:
        return "there is no attention"
    write = producer(operation.operands[1], *WRITES)
    found = _fresh(group, operation, write) if write is not None else None
    if isinstance(found, str):
        return found
    if write is None and isinstance(alone := only_op(group, *ATTENTIONS), str):
        return alone
    problem = _problem(operation, found, target)
    return problem if isinstance(problem, str) else lower(problem, _scope(group, operation, write, found), target)


def _fresh(group: Function, operation: mlir.Operation, write: mlir.Operation) -> Projected | str:
    """Where q, k and v of a group with a cache write come from."""
    if set(group.results.values()) != {operation.results[0], write.results[0]}:
        return "others than attention read the rotated q, k or v"
    _, k, v, _, *scales = write.operands
    found = projected(operation.operands[0], k, v)
    if isinstance(found, Projected) and not found.angles:
        return "q and k are not rotated in the group"
    paging = [kv_write.attrs_of(write)[name] for name in ("layer", "page_size", "k_layout")]
    if paging != [attention.attrs_of(operation)[name] for name in ("layer", "page_size", "k_layout")]:
        return "attention reads another layer than is written"
    if list(scales) != parts_of(operation)[1]:
        return "attention reads on other scales than is written"
    return found


def _problem(operation: mlir.Operation, found: Projected | None, target: CudaTarget) -> AttentionProblem | str:
    (q, kv, *_), scales, sinks = parts_of(operation)
    attrs = attention.attrs_of(operation)
    _, num_heads, head_dim = type_of(q).shape
    num_kv_heads = type_of(kv).shape[3]
    if attrs["page_size"] != PAGE_SIZE or attrs["k_layout"] != K_LAYOUT:
        return f"pages must be {PAGE_SIZE} tokens, {K_LAYOUT}; here {attrs['page_size']}, {attrs['k_layout']}"
    matrices = found.matrices if found is not None else ()
    if {type_of(value).dtype for value in (q, *matrices)} != {DType.BF16}:
        return f"q, k and v must be bf16; here {type_of(q)}"
    if type_of(kv).dtype not in (DType.BF16, DType.I8, *((DType.F8,) if target.has_f8 else ())):
        return f"{target.arch} has no kernels for a cache {type_of(kv)}"
    if head_dim not in HEAD_DIMS or static(num_heads) // static(num_kv_heads) > MAX_GROUP:
        return (
            f"heads must have 16 to 256 dims, a multiple of 8, and at most {MAX_GROUP} may share a kv head; "
            f"here {num_heads} of {head_dim} share {num_kv_heads}"
        )
    if attrs["scale"] <= 0:
        return f"the scale must be positive: the largest score is scaled after it is found; here {attrs['scale']}"
    if attrs["alibi"] and found is not None:
        return "scores that fall with distance have no kernel that rotates q and k"
    return AttentionProblem(
        static(num_heads),
        static(num_kv_heads),
        static(head_dim),
        attrs["scale"],
        attrs["window"],
        attrs["softcap"],
        type_of(sinks[0]).dtype if sinks else None,
        type_of(kv).dtype,
        found.projection if found is not None else None,
        attrs["alibi"],
        bool(scales),
    )


def _scope(group: Function, operation: mlir.Operation, write: mlir.Operation | None, found: Projected | None) -> Scope:
    (q, kv, page_table, query_start, context_lens), scales, sinks = parts_of(operation)
    values = {"page_table": page_table, "query_start": query_start, "context_lens": context_lens}
    values |= dict(zip(("sinks",), sinks, strict=False)) | dict(zip(("scales",), scales, strict=False))
    if write is None or found is None:
        values["q"] = q
    else:
        kv, _, _, values["slots"], *_ = write.operands
        values |= dict(zip(("q", "k", "v", "cos", "sin"), (*found.matrices, *found.angles), strict=True))
    slots = {name: input_slot(group, value) for name, value in values.items()}
    slots["kv"] = kv_slot(group, kv, attention.attrs_of(operation)["layer"])
    slots["out"] = result_slot(group, operation.results[0])
    sequences, width = type_of(page_table).shape
    sizes = {"T": type_of(q).shape[0], "S": sequences, "P": width, "C": type_of(kv).shape[1]}
    return Scope(slots, {name: str(size) for name, size in sizes.items()})


def lower(problem: AttentionProblem, scope: Scope, target: CudaTarget) -> Match:
    """The launches of a problem: T = S means that every sequence decodes, else there are chunks of prompts.

    The choice is of speed alone: both kernels compute any batch in which T is at most S. They add in different orders,
    so only one of them is deterministic: the ragged.
    """
    tile = decode_tile_for(problem, target)
    spec = DecodeAttentionSpec(problem, tile, target.has_tma)
    prompts = _prompt_kernels(problem, target)
    memory: dict[str, Temp] = {}
    if isinstance(prompts[-1], hopper_attention.HopperAttentionSpec):
        memory |= prompts[-1].scratch
    if not target.deterministic:
        memory |= dict(zip((operand.name for operand in spec.scratch), spec.temps, strict=True))
    scope = scope.with_temps(memory)
    ragged = tuple(scope.step(spec) for spec in prompts)
    if target.deterministic:
        return Match((Variant(ragged),), tuple(memory.values()))
    ways: list[tuple[Step, ...]] = [(scope.step(spec),), ragged]
    tokens, sequences = scope.dims["T"], scope.dims["S"]
    if few := few_sequences(problem, target):
        most, its_tile = few
        ways.insert(0, (scope.step(replace(spec, tile=its_tile)),))
        value = f"min(max({tokens} - {sequences}, 0), 1) * {PROMPTS} + {sequences}"
        ranges = consecutive(value, (most, PROMPTS - 1, None))
    else:
        ranges = consecutive(f"{tokens} - {sequences}", (0, None))
    return Match(tuple(map(Variant, ways, ranges)), tuple(memory.values()))


def _prompt_kernels(problem: AttentionProblem, target: CudaTarget) -> list[CudaKernelSpec]:
    """What computes any batch, in order."""
    kernels: list[CudaKernelSpec] = []
    on_hopper = hopper_attention.takes(problem, target)
    if problem.projection is not None:
        keys = replace(problem.projection, q=None)
        shape = 0, problem.num_kv_heads, problem.head_dim
        fresh = on_hopper and hopper_attention.HopperAttentionSpec(problem).fresh
        kernels.append(RopeKvWriteSpec(*shape, DType.BF16, problem.kv, keys, target.has_tma, problem.scaled, fresh))
    if on_hopper:
        return [*kernels, hopper_attention.HopperAttentionSpec(problem)]
    return [*kernels, RaggedAttentionSpec(problem, tile_for(problem, target), target.has_tma)]
