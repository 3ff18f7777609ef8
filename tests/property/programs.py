"""Random programs, drawn by hypothesis from the op specs.

A program is a module with `@step` (and `@prepare`, if parameters are read) and concrete data for it. It is plain
data: text that a test parses in its own context, so that a failing example prints as something to paste and run.

Floats that ops may read are kept within [-4, 4]: the builder runs every op as it is built and clamps results that
leave the range on the program's own inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import mlir.ir as mlir
import numpy as np
from hypothesis import strategies as st

import warploom.ir.ops  # noqa: F401  fills OPS
from tests.property.motifs import MOTIFS
from tests.tolerances import sensitivity
from warploom.ir.context import new_context, parse, print_module
from warploom.ir.dims import Dim, DimLike, DimRange, dim, resolve
from warploom.ir.function import FunctionBuilder, functions, scope
from warploom.ir.interpreter import Compute, Frame, apply, evaluate, evaluate_exports, loader
from warploom.ir.op import OPS, Op
from warploom.ir.ops.elementwise import maximum, minimum
from warploom.ir.ops.parameters import checkpoint, export, param
from warploom.ir.ops.shape import full
from warploom.ir.types import FLOATS, DType, TensorType, tensor, type_of
from warploom.ir.verify import verify

T = TypeVar("T")
BOUND = 4.0
MAX_ELEMENTS = 4096
SYMBOLS = {"T": DimRange(1, 8), "S": DimRange(1, 4), "U": DimRange(2, 8, 2)}
RUNNABLE_OPS = sorted(name for name, op in OPS.items() if hasattr(op, "generate"))

# What one step of the generator appends: an op, or a motif.
Step = Op | Callable[[Any], Sequence[mlir.Value]]


_context = cache(new_context)  # one for all examples: making it takes longer than most programs


@contextmanager
def dialect() -> Iterator[None]:
    """Enter a context that knows the dialect, and an unknown location."""
    with _context(), mlir.Location.unknown():
        yield


@dataclass(frozen=True, repr=False)
class Program:
    """A module's text and data to run it on."""

    text: str
    inputs: dict[str, np.ndarray]
    checkpoint: dict[str, np.ndarray]
    dims: dict[str, int]

    def parse(self) -> mlir.Module:
        """The module, in the current context."""
        return parse(self.text)

    def run(self, module: mlir.Module, compute: Compute = np.float32) -> dict[str, np.ndarray]:
        """Results of `@step` of `module` (this program, or what a pass made of it) on this program's data."""
        params = dict(evaluate_exports(module, loader(self.checkpoint))) if "prepare" in functions(module) else {}
        return evaluate(module, "step", self.inputs, params, compute=compute)

    def losses(self, module: mlir.Module) -> dict[str, float] | None:
        """Per result, what single precision loses; None if a decision in the program hangs on rounding."""
        single, double = self.run(module), self.run(module, np.float64)
        found = {name: sensitivity(single[name], double[name], t.dtype) for name, t in result_types(module).items()}
        kept = {name: loss for name, loss in found.items() if loss is not None}
        return kept if kept.keys() == found.keys() else None

    def __repr__(self) -> str:
        """Short: hypothesis refuses to make long ones, and prints examples by the function below."""
        return f"Program of {len(self.text.splitlines())} lines"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """How hypothesis prints a failing example: the text as it is, not as a literal."""
        data = {k: (v.dtype.name, v.tolist()) for k, v in (self.inputs | self.checkpoint).items()}
        printer.text(f"dims {self.dims}, data {data}\n{self.text}")


def result_types(module: mlir.Module) -> dict[str, TensorType]:
    """Types of the results of `@step` by name."""
    return {name: type_of(value) for name, value in functions(module)["step"].results.items()}


@st.composite
def programs(
    draw: Callable[[st.SearchStrategy[Any]], Any],
    ops: Iterable[str] = RUNNABLE_OPS,
    motifs: Sequence[Step] = MOTIFS,
    max_steps: int = 6,
) -> Program:
    """Programs over some ops and motifs; two steps of three are ops."""
    specs = [OPS[name] for name in ops]
    kinds: list[Sequence[Step]] = [kind for kind in (specs, specs, motifs) if kind]
    with dialect():
        builder = ProgramBuilder(draw)
        for i in range(max_steps):
            if i and builder.integer(0, 5) == 0:
                break
            with scope(f"model.layers.{i}"):
                builder.append(builder.choice(builder.choice(kinds)))
        return builder.finish()


@dataclass
class ProgramBuilder:
    """The program under construction; a `Chooser` for ops and a `Builder` for motifs."""

    draw: Callable[[st.SearchStrategy[Any]], Any]
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    checkpoint: dict[str, np.ndarray] = field(default_factory=dict)
    readable: list[mlir.Value] = field(default_factory=list)  # by later ops; newest last
    results: dict[str, mlir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.integer(0, 2**16))
        dims = {
            name: self.integer(r.min // r.multiple_of, r.max // r.multiple_of) * r.multiple_of
            for name, r in SYMBOLS.items()
        }
        self._module = mlir.Module.create()
        self._function = FunctionBuilder(self._module, "step", SYMBOLS)
        self._block = self._function.point.block
        self._evaluated = 0
        self._frame = Frame({}, loader(self.checkpoint), env=dims)

    def append(self, step: Step) -> None:
        """One op (sometimes twice, as bait for CSE) or one motif."""
        with self._function.point:
            if not isinstance(step, Op):
                self._keep(step(self))
                return
            operands, attrs = step.generate(self)
            for _ in range(2 if self.integer(0, 7) == 7 else 1):
                made = step(*operands, **attrs)
                self._keep(made if isinstance(made, tuple) else (made,))

    def finish(self) -> Program:
        """Return the newest value and some others, now and then one twice."""
        if not self.readable:
            self._fresh(tensor(()))
        *older, newest = self.readable
        chosen = [newest, *(v for v in older if not list(v.uses) and self.draw(st.booleans()))]
        if self.integer(0, 7) == 7:
            chosen.append(self.choice(self.readable))
        self._bind_symbols()
        self._function.finish(self.results | {f"r{i}": v for i, v in enumerate(chosen)})
        if self.checkpoint:
            self._write_prepare()
        verify(self._module)
        return Program(print_module(self._module), self.inputs, self.checkpoint, self._frame.env)

    def integer(self, low: int, high: int) -> int:
        """Shrinks towards `low`."""
        return int(self.draw(st.integers(low, high)))

    def choice(self, options: Sequence[T]) -> T:
        """Shrinks towards the first."""
        return options[self.integer(0, len(options) - 1)]

    def value(self, dtypes: frozenset[DType], min_rank: int = 0) -> mlir.Value:
        """A value (the newer, the simpler) or a new input."""
        types = [(v, type_of(v)) for v in reversed(self.readable)]
        fitting = [v for v, t in types if t.dtype in dtypes and t.rank >= min_rank]
        index = self.integer(0, len(fitting))
        if index < len(fitting):
            return fitting[index]
        dtype = self.choice(sorted(dtypes, key=lambda d: (d is not DType.F32, d)))
        dims = [self._dimension() for _ in range(self.integer(min_rank, 3))]
        return self._fresh(tensor(dims, dtype))

    def like(self, type_: TensorType) -> mlir.Value:
        """A value of exactly this type, or a new input."""
        fitting = [v for v in reversed(self.readable) if type_of(v) == type_]
        index = self.integer(0, len(fitting))
        return fitting[index] if index < len(fitting) else self._fresh(type_)

    def input(self, type_: TensorType, low: float, high: float) -> mlir.Value:
        """A new input or, if it is static, possibly a parameter."""
        if type_.is_static and self.draw(st.booleans()):
            return self.parameter(type_, low, high)
        return self.given(type_, self._data(type_, low, high))

    def parameter(self, type_: TensorType, low: float, high: float) -> mlir.Value:
        """A new parameter of a static type."""
        name = f"w{len(self.checkpoint)}"
        self.checkpoint[name] = self._data(type_, low, high)
        return param(name=name, shape=type_.shape, dtype=type_.dtype.value)

    def given(self, type_: TensorType, array: np.ndarray) -> mlir.Value:
        """A new input with this value."""
        return self._input(f"x{len(self.inputs)}", type_, array)

    def donated(self, type_: TensorType) -> tuple[str, mlir.Value]:
        """A new input whose memory the program may overwrite, and its name."""
        name = f"kv{len(self.inputs)}"
        return name, self._input(name, type_, self._data(type_, -1, 1), donated=True)

    def give_back(self, name: str, value: mlir.Value) -> None:
        """Return the new value of a donated input, under its name."""
        self.results[name] = value

    def size(self, value: DimLike) -> int:
        """What a dimension is in this program's data."""
        return resolve(value, self._frame.env)

    def symbol(self) -> Dim:
        """One of SYMBOLS."""
        symbol = dim(self.choice(list(SYMBOLS)))
        assert isinstance(symbol, Dim)
        return symbol

    def _dimension(self) -> DimLike:
        return self.symbol() if self.draw(st.booleans()) else self.integer(1, 5)

    def _fresh(self, type_: TensorType) -> mlir.Value:
        bounds = (0, 1) if type_.dtype is DType.I1 else (-BOUND, BOUND)
        value = self.input(type_, *bounds)
        self.readable.append(value)
        return value

    def _input(self, name: str, type_: TensorType, array: np.ndarray, *, donated: bool = False) -> mlir.Value:
        self.inputs[name] = array
        value = self._function.input(name, type_, donated=donated)
        self._frame.values[value] = array
        return value

    def _data(self, type_: TensorType, low: float, high: float) -> np.ndarray:
        """Uniform in the range; floats sometimes on a grid, so that values tie."""
        shape = type_.resolve(self._frame.env)
        if not type_.dtype.is_float:
            return self._rng.integers(int(low), int(high), shape, endpoint=True).astype(type_.dtype.numpy)
        array = self._rng.uniform(low, high, shape)
        if high - low >= 2 and self.integer(0, 3) == 3:
            array = np.clip(np.rint(array), low, high)
        return np.asarray(array).astype(type_.dtype.numpy)

    def _keep(self, values: Sequence[mlir.Value]) -> None:
        """Let later ops read values that are small and finite, clamped if they are out of range."""
        self._evaluate()
        for value in values:
            type_, array = type_of(value), self._frame.values[value]
            if array.size > MAX_ELEMENTS or (type_.dtype.is_float and not np.isfinite(array.astype(np.float64)).all()):
                continue
            if type_.dtype in FLOATS and np.abs(array.astype(np.float64)).max(initial=0) > BOUND:
                low, high = (full(shape=type_.shape, value=b, dtype=type_.dtype.value) for b in (-BOUND, BOUND))
                value = minimum(maximum(value, low), high)
            self.readable.append(value)
        self._evaluate()

    def _evaluate(self) -> None:
        """Run what was built since the last time."""
        for operation in list(self._block.operations)[self._evaluated :]:
            operands = [self._frame.values[v] for v in operation.operands]
            results = apply(operation.operation, operands, self._frame)
            self._frame.values.update(zip(operation.results, results, strict=True))
            self._evaluated += 1

    def _bind_symbols(self) -> None:
        """Add an input for each symbol that no input has as a dimension."""
        types = [type_of(r) for op in self._block.operations for r in op.results]
        inputs = [type_of(a) for a in self._block.arguments]
        used = {s for t in types + inputs for d in t.shape if isinstance(d, Dim) for s in d.symbols}
        bound = {str(d) for t in inputs for d in t.shape}
        for name in sorted(used - bound):
            self.given(tensor((name,)), self._data(tensor((name,)), -1, 1))

    def _write_prepare(self) -> None:
        prepare = FunctionBuilder(self._module, "prepare", {})
        with prepare.point:
            for name, array in self.checkpoint.items():
                dtype = DType.of(array).value
                export(checkpoint(name=name, shape=array.shape, dtype=dtype), name=name)
        prepare.finish({})
