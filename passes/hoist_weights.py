"""Constant folding into `@prepare`: what depends on parameters only is computed once, at compile time.

After this pass `@step` holds no work on weights. A folded value becomes a parameter with a name made from the names
of what it was made of, such as `model.layers.0.self_attn.{q_proj,k_proj,v_proj}.weight:bf16:panel`.
"""

from __future__ import annotations

from itertools import takewhile

import mlir.ir as mlir

from warploom.ir.function import functions
from warploom.ir.op import op_of
from warploom.ir.ops.elementwise import cast
from warploom.ir.ops.packing import pack
from warploom.ir.ops.parameters import export, param
from warploom.ir.ops.shape import concat, constant, full
from warploom.ir.rewrite import before, defining_op, entries, is_op, is_pure, param_name, producer, replace
from warploom.ir.types import type_of
from warploom.ir.verify import PREPARE


def hoist_weights(module: mlir.Module) -> None:
    """Move every pure op whose operands are parameters or constants, in order, so that chains move whole."""
    prepare = functions(module).get(PREPARE)
    if prepare is None:
        return
    terminator = prepare.terminator  # looked up once: it is found by walking all ops
    exported = {op.attributes["name"].value: op.operands[0] for op in prepare.ops if op_of(op) is export}
    for function in entries(module):
        for operation in function.ops:
            if _is_foldable(operation):
                _fold(operation, terminator, exported)


def _is_foldable(operation: mlir.Operation) -> bool:
    if not operation.operands or not is_pure(operation) or op_of(operation) is None:
        return False
    constants = [producer(operand, full, constant) is not None for operand in operation.operands]
    known = [param_name(operand) is not None for operand in operation.operands]
    if not any(known) or not all(a or b for a, b in zip(known, constants, strict=True)):
        return False
    return all(type_of(result).is_static for result in operation.results)


def _fold(operation: mlir.Operation, terminator: mlir.Operation, exported: dict[str, mlir.Value]) -> None:
    """Compute the op in `@prepare`, export its results, and make them parameters here."""
    names = [name for operand in operation.operands if (name := param_name(operand)) is not None]
    clone = operation.clone(ip=mlir.InsertionPoint(terminator)).operation
    for i, operand in enumerate(operation.operands):
        name = param_name(operand)
        clone.operands[i] = _copied(operand, clone) if name is None else exported[name]
    folded = []
    for i, result in enumerate(clone.results):
        name = _unique(_name(operation, names, i), exported)
        exported[name] = result
        with before(terminator):
            export(result, name=name)
        with before(operation):
            type_ = type_of(result)
            folded.append(param(name=name, shape=type_.shape, dtype=type_.dtype.value))
    replace(operation, folded)


def _copied(value: mlir.Value, before_op: mlir.Operation) -> mlir.Value:
    """A copy of a constant in `@prepare`."""
    source = defining_op(value)
    assert source is not None
    return source.clone(ip=mlir.InsertionPoint(before_op)).operation.results[0]


def _name(operation: mlir.Operation, names: list[str], index: int) -> str:
    """Readable name of result `index` of an op on the named parameters."""
    spec = op_of(operation)
    assert spec is not None
    if is_op(operation, concat):
        return _brace(names)
    if is_op(operation, cast, pack):
        (value,) = spec.attrs_of(operation).values()
        return f"{names[0]}:{value}"
    suffix = spec.name if len(spec.results) == 1 else spec.results[index]
    return f"{_brace(names)}:{suffix}"


def _brace(names: list[str]) -> str:
    """a.x.w and a.y.w become a.{x,y}.w."""
    if len(set(names)) == 1:
        return names[0]
    head = _common_prefix(names)
    tail = _common_prefix([n[len(head) :][::-1] for n in names])[::-1]
    middles = [n[len(head) : len(n) - len(tail)] for n in names]
    flat = [m[1:-1] if m.startswith("{") else m for m in middles]  # of a nested concat
    return f"{head}{{{','.join(flat)}}}{tail}"


def _common_prefix(texts: list[str]) -> str:
    same = takewhile(lambda characters: len(set(characters)) == 1, zip(*texts, strict=False))
    return "".join(characters[0] for characters in same)


def _unique(name: str, taken: dict[str, mlir.Value]) -> str:
    while name in taken:
        name += "'"
    return name
