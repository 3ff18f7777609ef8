"""The semantic verifier: what IRDL cannot say. Runs after every pass.

1. MLIR's own structural verification holds.
2. Every `wl` op's operands, attributes and result types are what its class infers.
3. Every symbol in a type is declared in the function's `wl.dims`.
4. Names of inputs, results, exports are unique; `checkpoint` and `export` stand in `@prepare` only, and every
   `param` names an export of the same type.
5. A call's callee is a private function of the module.
"""

from __future__ import annotations

import mlir.ir as mlir

from warploom.errors import IRError
from warploom.ir.dims import Dim
from warploom.ir.function import Function, functions, path_of
from warploom.ir.op import op_of, prefixed
from warploom.ir.ops.parameters import checkpoint, export, param
from warploom.ir.types import TensorType, type_of

PREPARE = "prepare"


def verify(module: mlir.Module) -> None:
    """Check a module.

    Raises:
        IRError: naming the function, the op and its place in the model.
    """
    _structure(module)
    found = functions(module)
    exports = _exports(found[PREPARE]) if PREPARE in found else None
    for function in found.values():
        _unique(list(function.inputs), f"inputs of @{function.name}")
        _unique(list(function.results), f"results of @{function.name}")
        for operation in function.ops:
            try:
                _check(operation, function, found, exports)
            except IRError as error:
                raise prefixed(error, f"@{function.name}: {path_of(operation)}") from error


def _structure(module: mlir.Module) -> None:
    try:
        module.operation.verify()
    except mlir.MLIRError as error:
        raise IRError("the module is structurally invalid", found=str(error)) from error


def _check(
    operation: mlir.Operation,
    function: Function,
    found: dict[str, Function],
    exports: dict[str, TensorType] | None,
) -> None:
    for result in operation.results:
        undeclared = _symbols(type_of(result)) - function.dims.keys()
        if undeclared:
            raise IRError(f"symbols {sorted(undeclared)} are not declared", fix="add them to wl.dims of the function")
    op = op_of(operation)
    if op is None:
        _check_call(operation, found)
        return
    inferred = op.result_types([type_of(v) for v in operation.operands], op.attrs_of(operation))
    actual = tuple(type_of(r) for r in operation.results)
    if len(inferred) != len(actual) or not all(a.matches(b) for a, b in zip(inferred, actual, strict=True)):
        raise IRError(f"{op.name}: wrong result types", expected=_text(inferred), found=_text(actual))
    if op in (checkpoint, export) and function.name != PREPARE:
        raise IRError(f"{op.name} stands outside of @{PREPARE}")
    if op is param and exports is not None:
        name = operation.attributes["name"].value
        if name not in exports or not exports[name].matches(actual[0]):
            raise IRError(
                f"param {name} does not match an export",
                expected=str(exports.get(name)),
                found=str(actual[0]),
            )


def _check_call(operation: mlir.Operation, found: dict[str, Function]) -> None:
    if operation.name != "func.call":
        raise IRError(f"op {operation.name} is not allowed", expected="ops of the wl dialect, func.call, func.return")
    callee = operation.attributes["callee"].value
    if callee not in found or not found[callee].is_private:
        raise IRError(f"call of @{callee}, which is no fusion group")


def _exports(prepare: Function) -> dict[str, TensorType]:
    stores = [op for op in prepare.ops if op_of(op) is export]
    names = [op.attributes["name"].value for op in stores]
    _unique(names, "exports")
    return {name: type_of(op.operands[0]) for name, op in zip(names, stores, strict=True)}


def _unique(names: list[str], what: str) -> None:
    repeated = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) != len(names) else []
    if repeated:
        raise IRError(f"{what} are not unique", found=", ".join(repeated))


def _symbols(type_: TensorType) -> set[str]:
    return {s for d in type_.shape if isinstance(d, Dim) for s in d.symbols}


def _text(types: tuple[TensorType, ...]) -> str:
    return ", ".join(map(str, types))
