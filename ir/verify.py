"""The semantic verifier: what IRDL cannot say. Runs after every pass.

1. MLIR's own structural verification holds (it also holds calls to the exact types of their callee).
2. A module holds functions of one block each, and these hold `wl` ops, calls and a return.
3. Every `wl` op's operands, attributes and result types are what its class infers.
4. Every symbol in a type is declared in the function's `wl.dims`, with sensible bounds.
5. Names of inputs, of results and of exports are unique.
6. `checkpoint` and `export` stand in `@prepare` only, and every `param` names an export of the same type.
7. A call's callee is a private function of the module that declares its symbols as the caller does and calls nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlir.ir as mlir
from mlir.dialects import func

from warploom.errors import IRError
from warploom.ir.dims import Dim, DimRange
from warploom.ir.function import Function, functions, path_of
from warploom.ir.op import Op, op_of, prefixed
from warploom.ir.ops.parameters import checkpoint, export, param
from warploom.ir.types import TensorType, type_of

PREPARE = "prepare"


def verify(module: mlir.Module) -> None:
    """Check a module.

    Raises:
        IRError: naming the function, the op and its place in the model.
    """
    _check_structure(module)
    found = functions(module)
    exports = _exports(found[PREPARE]) if PREPARE in found else None
    for function in found.values():
        _Checker(function, found, exports).run()


def _check_structure(module: mlir.Module) -> None:
    """1 and 2."""
    try:
        module.operation.verify()
    except mlir.MLIRError as error:
        raise IRError("the module is structurally invalid", found=str(error)) from error
    for operation in module.body.operations:
        if not isinstance(operation, func.FuncOp):
            raise IRError("a module holds functions only", found=operation.operation.name)
        if len(operation.regions[0].blocks) != 1:
            raise IRError(f"{operation.name} must have one block", found=f"{len(operation.regions[0].blocks)} blocks")


@dataclass(frozen=True)
class _Checker:
    """Checks one function of a module whose structure is sound."""

    function: Function
    functions: Mapping[str, Function]
    exports: Mapping[str, TensorType] | None

    def run(self) -> None:
        place, dims = f"@{self.function.name}", self.function.dims
        _check_unique(self.function.input_names, f"{place}: inputs")
        _check_unique(self.function.result_names, f"{place}: results")
        _check_ranges(dims, place)
        for name, value in self.function.inputs.items():
            _check_declared(type_of(value), dims, f"{place}: input {name}")
        for operation in self.function.ops:
            try:
                self._check(operation, dims)
            except IRError as error:
                raise prefixed(error, f"{place}: {path_of(operation)}") from error

    def _check(self, operation: mlir.Operation, dims: Mapping[str, DimRange]) -> None:
        actual = tuple(type_of(r) for r in operation.results)
        for type_ in actual:
            _check_declared(type_, dims, operation.name)
        op = op_of(operation)
        if op is None:
            self._check_call(operation, dims)
            return
        inferred = op.result_types([type_of(v) for v in operation.operands], op.attrs_of(operation))
        if len(inferred) != len(actual) or not all(a.matches(b) for a, b in zip(inferred, actual, strict=True)):
            raise IRError(f"{op.name}: wrong result types", expected=_text(inferred), found=_text(actual))
        self._check_place(op, operation, actual)

    def _check_place(self, op: Op, operation: mlir.Operation, actual: Sequence[TensorType]) -> None:
        """6."""
        inside = self.function.name == PREPARE
        if op in (checkpoint, export) and not inside:
            raise IRError(f"{op.name} stands outside of @{PREPARE}")
        if op is not param:
            return
        if inside:
            raise IRError(f"param stands in @{PREPARE}", fix="read what was exported under that name directly")
        name = operation.attributes["name"].value
        exported = None if self.exports is None else self.exports.get(name)
        if self.exports is not None and (exported is None or not exported.matches(actual[0])):
            raise IRError(f"param {name} does not match an export", expected=str(exported), found=str(actual[0]))

    def _check_call(self, operation: mlir.Operation, dims: Mapping[str, DimRange]) -> None:
        """7."""
        if operation.name != "func.call":
            raise IRError(f"op {operation.name} is not allowed", expected="ops of wl, func.call, func.return")
        if self.function.is_private:
            raise IRError("a fusion group calls no other")
        name = operation.attributes["callee"].value
        callee = self.functions.get(name)
        if callee is None or not callee.is_private:
            raise IRError(f"call of @{name}, which is no fusion group")
        differing = [s for s, r in callee.dims.items() if dims.get(s) != r]
        if differing:
            raise IRError(f"caller and @{name} declare {', '.join(differing)} differently")


def _check_ranges(dims: Mapping[str, DimRange], place: str) -> None:
    for name, known in dims.items():
        if not 0 <= known.min <= known.max or known.multiple_of < 1:
            raise IRError(f"{place}: bounds of {name}", expected="0 <= min <= max, multiple_of >= 1", found=str(known))


def _check_declared(type_: TensorType, dims: Mapping[str, DimRange], what: str) -> None:
    undeclared = {s for d in type_.shape if isinstance(d, Dim) for s in d.symbols} - dims.keys()
    if undeclared:
        raise IRError(f"{what}: symbols {sorted(undeclared)} are not declared", fix="add them to wl.dims")


def _exports(prepare: Function) -> dict[str, TensorType]:
    stores = [op for op in prepare.ops if op_of(op) is export]
    names = [op.attributes["name"].value for op in stores]
    _check_unique(names, "exports")
    return {name: type_of(op.operands[0]) for name, op in zip(names, stores, strict=True)}


def _check_unique(names: Sequence[str], what: str) -> None:
    repeated = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) != len(names) else []
    if repeated:
        raise IRError(f"{what} are not unique", found=", ".join(repeated))


def _text(types: tuple[TensorType, ...]) -> str:
    return ", ".join(map(str, types))
