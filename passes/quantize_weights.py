"""Store every weight matrix as the rules say: linears, and embeddings; norms and biases stay as they are.

Casts and quantizations appear in `@step` and are moved to `@prepare` by `hoist_weights`.
"""

from __future__ import annotations

import mlir.ir as mlir

from warploom.errors import CompileError
from warploom.ir.function import Function, in_all_layers, path_of
from warploom.ir.ops.attention import attention
from warploom.ir.ops.experts import expert_linear, quantized_expert_linear
from warploom.ir.ops.head_linear import head_linear
from warploom.ir.ops.latent_attention import latent_attention
from warploom.ir.ops.linear import embed, linear
from warploom.ir.ops.mxfp4 import mxfp4_expert_linear
from warploom.ir.ops.packing import pack
from warploom.ir.ops.quantized_embed import quantized_embed
from warploom.ir.ops.quantized_linear import quantized_linear
from warploom.ir.rewrite import before, entries, is_op, is_weight, parameters_of, replace, users
from warploom.ir.types import DType, type_of
from warploom.passes.quantization.scheme import Rules, Scheme, scheme

QUANTIZED = {linear: quantized_linear, embed: quantized_embed}


def quantize_weights(module: mlir.Module, rules: Rules) -> None:
    """Rewrite linears, each with the embeddings that share its weight, then the embeddings that are left."""
    for function in entries(module):
        done: set[mlir.Value] = set()
        last = _after_attention(function)
        for kind in (linear, embed):
            for operation in function.ops:
                if is_op(operation, kind) and _is_row_weight(operation) and operation.operands[1] not in done:
                    found = rules.scheme_of(module_paths(operation))
                    if found is not None:
                        role = found.table if kind is embed else found.last if operation in last else ""
                        done.update(_store(operation.operands[1], operation, scheme(role) if role else found))
        for operation in function.ops:
            if is_op(operation, expert_linear) and is_weight(operation.operands[2]):
                _store_experts(operation, rules)
            elif is_op(operation, head_linear) and _has_floats(operation.operands[1]):
                _store_heads(operation, rules)


def _after_attention(function: Function) -> list[mlir.Operation]:
    """The ops after the last attention: of its layer the rest, and the head."""
    ops = list(function.ops)
    attends = [i for i, operation in enumerate(ops) if is_op(operation, attention, latent_attention)]
    return ops[attends[-1] + 1 :] if attends else []


def weight_paths(module: mlir.Module) -> list[str]:
    """Paths of all modules that patterns of rules are matched with."""
    readers = (op for f in entries(module) for op in f.ops if is_op(op, linear, embed, expert_linear, head_linear))
    return list(dict.fromkeys(path for reader in readers for path in module_paths(reader)))


def module_paths(operation: mlir.Operation) -> list[str]:
    """Paths of modules that a weight belongs to: where it is used, and where it is stored."""
    names = parameters_of(operation.operands[2 if is_op(operation, expert_linear) else 1])
    stored = [name.rpartition(".weight")[0] for name in names if ".weight" in name]  # `.weight`, or a part of it
    return [path_of(operation), *dict.fromkeys(stored)]


def _is_row_weight(operation: mlir.Operation) -> bool:
    return linear.attrs_of(operation)["layout"] == "row" and is_weight(operation.operands[1])


def _store(weight: mlir.Value, first: mlir.Operation, chosen: Scheme) -> list[mlir.Value]:
    """Rewrite all linears and embeddings that read a weight; the matrices that they read now."""
    readers = [op for op in users(weight) if is_op(op, linear, embed) and _is_row_weight(op)]
    n, k = type_of(weight).resolve({})
    if (reason := chosen.refuses(n, k)) is not None:
        path = module_paths(first)[-1]
        raise CompileError(
            f"{path} cannot be stored as {chosen.name}",
            expected="a matrix that the scheme can hold",
            found=reason,
            fix=f'give it another scheme: quantization={{"{in_all_layers(path)}": "int8", "*": "{chosen.name}"}}',
        )
    with mlir.InsertionPoint.after(weight.owner.operation), first.location:
        matrices = chosen.store(weight)
    for reader in readers:
        if len(matrices) == 1:
            reader.operands[1] = matrices[0]
        else:
            spec = next(op for op in QUANTIZED if is_op(reader, op))
            with before(reader):
                replace(reader, [QUANTIZED[spec](reader.operands[0], *matrices, **linear.attrs_of(reader))])
    return [matrices[0]]


def _store_experts(operation: mlir.Operation, rules: Rules) -> None:
    """Rewrite the product with chosen experts; numbers of four bits are packed in rows."""
    paths = module_paths(operation)
    chosen = rules.scheme_of(paths)
    if chosen is None:
        return
    x, experts, weight = operation.operands
    if (reason := chosen.refuses(*type_of(weight).resolve({}))) is not None:
        raise CompileError(
            f"the experts of {paths[0]} cannot be stored as {chosen.name}",
            expected="matrices that the scheme can hold",
            found=reason,
            fix=f'store experts otherwise: quantization={{"*.experts.*": "int8", "*": "{chosen.name}"}}',
        )
    attrs = expert_linear.attrs_of(operation)
    with before(operation):
        matrices = (chosen.experts or chosen.store)(weight)
        if len(matrices) == 1:
            operation.operands[2] = matrices[0]
        elif type_of(matrices[1]).dtype is DType.I8:
            replace(operation, [mxfp4_expert_linear(x, experts, *matrices, **attrs)])
        else:
            q, *sides = matrices
            layout = "row4" if type_of(q).dtype is DType.I4 else "row"
            numbers = pack(q, layout=layout) if layout == "row4" else q
            replace(operation, [quantized_expert_linear(x, experts, numbers, *sides, layout=layout, **attrs)])


def _has_floats(weight: mlir.Value) -> bool:
    """Whether a value is a weight that `quantize_heads` has not stored already."""
    return is_weight(weight) and type_of(weight).dtype.is_float


def _store_heads(operation: mlir.Operation, rules: Rules) -> None:
    """Rewrite the product by heads; where others are quantized its weight is bf16, if `quantize_heads` left it."""
    chosen = rules.scheme_of(module_paths(operation))
    if chosen is not None:
        floats = scheme("bf16") if chosen.quantizes else chosen
        with before(operation):
            (operation.operands[1],) = floats.store(operation.operands[1])
