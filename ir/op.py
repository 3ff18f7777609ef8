"""What an op is. Each op of `ops/` is one class and one instance; everything else is derived from it.

A class declares operands and attributes and defines `infer` (result types, and by raising `IRError` the verifier),
`evaluate` (numpy meaning) and, for composites, `decompose` (the same meaning in simpler ops). The instance, called
with values, builds the op at MLIR's current insertion point. IRDL text, verifier, interpreter, program generator
and the op table of the docs all read the registry `OPS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Protocol, TypeVar

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind, decode, encode
from warploom.ir.dims import Dim
from warploom.ir.types import ALL, DType, TensorType, type_of

DIALECT = "wl"
T = TypeVar("T")
Types = TensorType | tuple[TensorType, ...]
Arrays = np.ndarray | tuple[np.ndarray, ...]


class Effect(Enum):
    """What an op does besides returning values."""

    NONE = "none"
    EXPORT = "export"  # defines a packed parameter: never dead, never merged


@dataclass(frozen=True)
class Operand:
    """A declared operand.

    Attributes:
        name: of the parameter of `infer`, `evaluate` and `decompose` that takes it.
        dtypes: which it may have.
        widened: decompositions see it widened to f32.
        optional: may be left out; only the last operand, whose parameter has the default None.
    """

    name: str
    dtypes: frozenset[DType] = ALL
    widened: bool = False
    optional: bool = False


def activation(name: str) -> Operand:
    """An operand that flows between the composites of a model: f32 or bf16, computed with in f32."""
    return Operand(name, frozenset({DType.F32, DType.BF16}), widened=True)


@dataclass(frozen=True)
class Attribute:
    """A declared attribute: the Python kind of its value, and the value where the builder or a text has none.

    An attribute that is added to an op has a default that means what the op meant before, so that older texts keep
    their meaning; see `context.py`.
    """

    name: str
    kind: Kind
    default: AttrValue | None = None


class Chooser(Protocol):
    """Where a program generator takes its decisions and its operands from (hypothesis, in tests)."""

    def integer(self, low: int, high: int) -> int:
        """A number in `[low, high]`."""

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""

    def value(self, dtypes: frozenset[DType], min_rank: int = 0) -> mlir.Value:
        """An existing value or a new input of one of the dtypes; floats are within [-4, 4]."""

    def like(self, type_: TensorType) -> mlir.Value:
        """An existing value or a new input of exactly this type; floats are within [-4, 4]."""

    def input(self, type_: TensorType, low: float, high: float) -> mlir.Value:
        """A new input whose elements are drawn from `[low, high]` (integers: inclusive)."""

    def symbol(self) -> Dim:
        """A symbolic dimension of the program."""


class Op:
    """Base of all ops; see the module docstring."""

    name: ClassVar[str]
    operands: ClassVar[tuple[Operand, ...]] = ()
    attributes: ClassVar[tuple[Attribute, ...]] = ()
    results: ClassVar[tuple[str, ...]] = ("out",)
    effect: ClassVar[Effect] = Effect.NONE
    decompose: ClassVar[Callable[..., mlir.Value | tuple[mlir.Value, ...]] | None] = None

    # Signatures differ by op: `infer(self, x: TensorType, ..., *, attr)`, `evaluate(self, x: ndarray, ..., *, attr)`,
    # `generate(self, choose) -> (operands, attributes)`.
    infer: Callable[..., Types]
    evaluate: Callable[..., Arrays]
    generate: Callable[[Chooser], tuple[list[mlir.Value], dict[str, AttrValue]]]

    def __init__(self) -> None:
        if self.name in OPS:
            raise IRError(f"op {self.name} is defined twice", fix="give the new op its own name")
        OPS[self.name] = self

    @property
    def summary(self) -> str:
        """First paragraph of the class docstring, on one line."""
        return (inspect.getdoc(type(self)) or "").partition("\n\n")[0].replace("\n", " ")

    def __call__(self, *values: mlir.Value, **attrs: AttrValue) -> Any:
        """Build the op at the current insertion point.

        Returns:
            Its result, a tuple of results if it has several, None if it has none.

        Raises:
            IRError: wrong number of operands, wrong dtype, missing attribute, or what `infer` refuses.
        """
        attrs = {a.name: a.default for a in self.attributes if a.default is not None} | attrs
        types = self.result_types([type_of(v) for v in values], attrs)
        operation = mlir.Operation.create(
            f"{DIALECT}.{self.name}",
            results=[t.to_mlir() for t in types],
            operands=list(values),
            attributes={a.name: encode(a.kind, attrs[a.name]) for a in self.attributes},
        )
        results = tuple(operation.results)
        return None if not results else results[0] if len(results) == 1 else results

    def result_types(self, types: Sequence[TensorType], attrs: Mapping[str, AttrValue]) -> tuple[TensorType, ...]:
        """Check operands and attributes against the declaration and infer the result types."""
        self._check_operands(types)
        declared = {a.name for a in self.attributes}
        if declared != attrs.keys():
            raise IRError(f"{self.name}: wrong attributes", expected=str(sorted(declared)), found=str(sorted(attrs)))
        try:
            inferred = self.infer(*types, **attrs)
        except IRError as error:
            raise prefixed(error, self.name) from error
        return inferred if isinstance(inferred, tuple) else (inferred,)

    def attrs_of(self, operation: mlir.Operation) -> dict[str, Any]:
        """The attributes of a built op as Python values; those that are left out have their defaults.

        Raises:
            IRError: a declared attribute without a default is missing.
        """
        given = operation.attributes
        missing = [a.name for a in self.attributes if a.name not in given and a.default is None]
        if missing:
            raise IRError(f"{self.name}: missing attributes {missing}")
        return {a.name: decode(a.kind, given[a.name]) if a.name in given else a.default for a in self.attributes}

    def _check_operands(self, types: Sequence[TensorType]) -> None:
        required = sum(not o.optional for o in self.operands)
        if not required <= len(types) <= len(self.operands):
            raise IRError(
                f"{self.name}: wrong number of operands",
                expected=", ".join(o.name + " (optional)" * o.optional for o in self.operands),
                found=f"{len(types)} operands",
            )
        for operand, given in zip(self.operands, types, strict=False):
            if given.dtype not in operand.dtypes:
                raise IRError(
                    f"{self.name}: operand {operand.name} has the wrong dtype",
                    expected=" or ".join(sorted(operand.dtypes)),
                    found=str(given),
                )


OPS: dict[str, Op] = {}


def op_of(operation: mlir.Operation | mlir.OpView) -> Op | None:
    """The spec of an MLIR operation, or None if it is not of this dialect (func, return, call)."""
    dialect, _, name = operation.operation.name.partition(".")
    if dialect != DIALECT:
        return None
    if name not in OPS:
        raise IRError(f"unknown op {operation.operation.name}", fix="see docs/ops.md for the ops of the dialect")
    return OPS[name]


def prefixed(error: IRError, place: str) -> IRError:
    """The same error, saying where."""
    return IRError(f"{place}: {error.what}", expected=error.expected, found=error.found, fix=error.fix)
