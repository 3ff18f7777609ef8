"""Functions of a module: named inputs and results, facts about symbols, and building them.

`@step`, `@sample`, `@logprobs` and `@prepare` are public; fusion groups are private and called. A function carries
`wl.dims` (what is known of each symbol), each input `wl.name` and possibly `wl.donated`, each result `wl.name`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import mlir.ir as mlir
from mlir.dialects import func

from warploom.errors import IRError
from warploom.ir.dims import DimRange
from warploom.ir.types import TensorType


@dataclass(frozen=True)
class Function:
    """A view of one `func.func`."""

    operation: func.FuncOp

    @property
    def name(self) -> str:
        """Symbol name, without the @."""
        return str(self.operation.attributes["sym_name"].value)

    @property
    def is_private(self) -> bool:
        """Whether it is a fusion group."""
        attributes = self.operation.attributes
        return "sym_visibility" in attributes and attributes["sym_visibility"].value == "private"

    @property
    def body(self) -> mlir.Block:
        """The single block."""
        return self.operation.regions[0].blocks[0]

    @property
    def ops(self) -> list[mlir.Operation]:
        """Operations in order, without the return."""
        return [op.operation for op in self.body.operations][:-1]

    @property
    def terminator(self) -> mlir.Operation:
        """The return."""
        operations = self.body.operations
        return operations[len(operations) - 1].operation

    @property
    def dims(self) -> dict[str, DimRange]:
        """Facts about the symbols, in declaration order."""
        if "wl.dims" not in self.operation.attributes:
            return {}
        entries = self.operation.attributes["wl.dims"]
        return {e.name: DimRange(*e.attr) for e in entries}

    @property
    def inputs(self) -> dict[str, mlir.Value]:
        """Arguments by name."""
        return dict(zip(self.input_names, self.body.arguments, strict=True))

    @property
    def results(self) -> dict[str, mlir.Value]:
        """Returned values by name."""
        return dict(zip(self.result_names, self.terminator.operands, strict=True))

    @property
    def input_names(self) -> list[str]:
        """Names of the arguments in order; the verifier holds them to be unique."""
        return self._names("arg_attrs", len(self.body.arguments))

    @property
    def result_names(self) -> list[str]:
        """Names of the returned values in order; the verifier holds them to be unique."""
        return self._names("res_attrs", len(self.terminator.operands))

    @property
    def donated(self) -> set[str]:
        """Inputs whose memory the function may overwrite."""
        attrs = self._attrs("arg_attrs", len(self.body.arguments))
        return {name for name, a in zip(self.inputs, attrs, strict=True) if "wl.donated" in a}

    def _attrs(self, key: str, count: int) -> list[mlir.DictAttr]:
        if key not in self.operation.attributes:
            return [mlir.DictAttr.get({}) for _ in range(count)]
        return list(self.operation.attributes[key])

    def _names(self, key: str, count: int) -> list[str]:
        attrs = self._attrs(key, count)
        return [a["wl.name"].value if "wl.name" in a else str(i) for i, a in enumerate(attrs)]


def functions(module: mlir.Module) -> dict[str, Function]:
    """All functions of a module by name."""
    found = [Function(op) for op in module.body.operations if isinstance(op, func.FuncOp)]
    return {f.name: f for f in found}


def public_functions(module: mlir.Module) -> dict[str, Function]:
    """The entry points, `@prepare` included."""
    return {name: f for name, f in functions(module).items() if not f.is_private}


class FunctionBuilder:
    """Builds one function op by op: declare inputs, call ops, then `finish`."""

    def __init__(self, module: mlir.Module, name: str, dims: Mapping[str, DimRange], private: bool = False) -> None:
        """Append `@name` to the module; a duplicate name is an `IRError`."""
        if name in functions(module):
            raise IRError(f"function @{name} exists already")
        self._module = module  # which its ops do not keep alive
        with mlir.InsertionPoint(module.body), mlir.Location.name(name):
            self._operation = func.FuncOp(name, mlir.FunctionType.get([], []))
        if private:
            self._operation.attributes["sym_visibility"] = mlir.StringAttr.get("private")
        if dims:
            self._operation.attributes["wl.dims"] = dims_attribute(dims)
        self._block = self._operation.add_entry_block()
        self._inputs: list[mlir.DictAttr] = []

    @property
    def point(self) -> mlir.InsertionPoint:
        """Where ops go: `with builder.point: ...`."""
        return mlir.InsertionPoint(self._block)

    def input(self, name: str, type_: TensorType, *, donated: bool = False) -> mlir.Value:
        """Declare an input; inputs keep their order."""
        attributes: dict[str, mlir.Attribute] = {"wl.name": mlir.StringAttr.get(name)}
        if donated:
            attributes["wl.donated"] = mlir.UnitAttr.get()
        self._inputs.append(mlir.DictAttr.get(attributes))
        return self._block.add_argument(type_.to_mlir(), mlir.Location.name(name))

    def finish(self, results: Mapping[str, mlir.Value]) -> Function:
        """Return the named values and fix the signature."""
        with mlir.InsertionPoint(self._block), mlir.Location.unknown():
            func.ReturnOp(list(results.values()))
        return seal(self._operation, self._inputs, list(results))


def seal(operation: func.FuncOp, inputs: list[mlir.DictAttr], results: list[str]) -> Function:
    """Make signature and attributes of a function agree with its block and return."""
    function = Function(operation)
    arguments = [a.type for a in function.body.arguments]
    returned = [v.type for v in function.terminator.operands]
    operation.attributes["function_type"] = mlir.TypeAttr.get(mlir.FunctionType.get(arguments, returned))
    operation.attributes["arg_attrs"] = mlir.ArrayAttr.get(list(inputs))
    names = [mlir.DictAttr.get({"wl.name": mlir.StringAttr.get(name)}) for name in results]
    operation.attributes["res_attrs"] = mlir.ArrayAttr.get(names)
    return function


def dims_attribute(dims: Mapping[str, DimRange]) -> mlir.DictAttr:
    """`wl.dims`: per symbol [min, max, multiple_of]."""
    return mlir.DictAttr.get({n: mlir.DenseI64ArrayAttr.get([d.min, d.max, d.multiple_of]) for n, d in dims.items()})


@contextmanager
def scope(path: str) -> Iterator[None]:
    """Ops built inside carry the Hugging Face module path as their location."""
    with mlir.Location.name(path):
        yield


def path_of(operation: mlir.Operation) -> str:
    """The module path in an op's location, or an empty string."""
    location = operation.location
    return str(location.name_str) if location.is_a_name() else ""


def in_all_layers(path: str) -> str:
    """`model.layers.*.mlp` of `model.layers.3.mlp`: a pattern that fits the module in every layer."""
    return re.sub(r"\.\d+\b", ".*", path)
