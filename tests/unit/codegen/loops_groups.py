"""Fusion groups of core ops with data, made from the ops' own `generate` by a seeded chooser, compiled many at once.

Sizes are larger than those of `tests/property/programs.py`, so that vectors, their tails and unaligned rows all occur.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import mlir.ir as mlir
import numpy as np

from tests.tolerances import assert_close, sensitivity
from warploom.codegen.cpu import toolchain
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.loops import match
from warploom.ir.dims import Dim, DimLike, DimRange, dim, resolve
from warploom.ir.function import Function, FunctionBuilder
from warploom.ir.interpreter import evaluate
from warploom.ir.op import OPS
from warploom.ir.ops.elementwise import cast, maximum, minimum
from warploom.ir.ops.shape import full
from warploom.ir.types import DType, TensorType, tensor, type_of
from warploom.runtime.expr import evaluate as evaluate_expr

T = TypeVar("T")
BOUND = 4.0
MAX_ELEMENTS = 1 << 15
SYMBOLS = {"T": DimRange(1, 4096), "S": DimRange(1, 4096)}
SIZES: tuple[DimLike | str, ...] = ("T", "S", 1, 3, 16, 17, 32, 64)


class GroupBuilder:
    """A `Chooser` that builds one group function and the data to run it on."""

    def __init__(self, module: mlir.Module, name: str, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.env = {"T": self.choice([1, 2, 5, 33]), "S": self.choice([1, 3, 16, 50])}
        self.module, self.name = module, name
        self.builder = FunctionBuilder(module, name, SYMBOLS, private=True)
        self.arrays: dict[str, np.ndarray] = {}
        self.values: list[mlir.Value] = []

    @property
    def point(self) -> mlir.InsertionPoint:
        """Where the ops of the group go."""
        return self.builder.point

    def build(self, op: str) -> Sequence[mlir.Value]:
        """One op on operands of its own choice; returns its results."""
        operands, attributes = OPS[op].generate(self)
        made = OPS[op](*operands, **attributes)
        return made if isinstance(made, tuple) else (made,)

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def choice(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]

    def value(self, dtypes: frozenset[DType], min_rank: int = 0) -> mlir.Value:
        """A recent value, cast if need be, so that ops hang together; or a new input."""
        fitting = [v for v in self.values[-3:] if type_of(v).rank >= min_rank]
        if not fitting or self.integer(0, 7) == 0:
            return self.fresh(self.some_type(self.choice(sorted(dtypes)), min_rank))
        value = self.choice(fitting)
        if type_of(value).dtype in dtypes:
            return value
        return cast(value, dtype=self.choice(sorted(dtypes)).value)

    def like(self, type_: TensorType) -> mlir.Value:
        fitting = [v for v in self.values if type_of(v) == type_]
        return self.choice(fitting) if fitting and self.integer(0, 3) else self.fresh(type_)

    def input(self, type_: TensorType, low: float, high: float) -> mlir.Value:
        shape = type_.resolve(self.env)
        if type_.dtype.is_float:
            array = self.rng.uniform(low, high, shape)
            array = np.clip(np.rint(array), low, high) if self.integer(0, 4) == 0 else array  # ties
        else:
            array = self.rng.integers(int(low), int(high), shape, endpoint=True)
        name = str(len(self.arrays))
        self.arrays[name] = np.asarray(array).astype(type_.dtype.numpy)
        return self.builder.input(name, type_)

    def symbol(self) -> Dim:
        symbol = dim(self.choice(list(SYMBOLS)))
        assert isinstance(symbol, Dim)
        return symbol

    def some_type(self, dtype: DType, min_rank: int) -> TensorType:
        """A random shape of few enough elements."""
        while True:
            type_ = tensor([self.choice(SIZES) for _ in range(self.integer(min_rank, 4))], dtype)
            if np.prod(type_.resolve(self.env)) <= MAX_ELEMENTS:
                return type_

    def fresh(self, type_: TensorType) -> mlir.Value:
        """A new input of small values."""
        value = self.input(type_, *((0, 1) if type_.dtype is DType.I1 else (-BOUND, BOUND)))
        self.values.append(value)
        return value

    def keep(self, value: mlir.Value) -> None:
        """Let later ops read the value: clamped, so that nothing overflows."""
        type_ = type_of(value)
        if np.prod([resolve(d, self.env) for d in type_.shape]) > MAX_ELEMENTS:
            return
        if type_.dtype not in (DType.I1, DType.I8):
            low, high = (full(shape=type_.shape, value=b, dtype=type_.dtype.value) for b in (-BOUND, BOUND))
            value = minimum(maximum(value, low), high)
        self.values.append(value)


@dataclass(frozen=True)
class Case:
    """A group, its kernel, and its data."""

    name: str
    module: mlir.Module
    function: Function
    match: Match
    arrays: dict[str, np.ndarray]
    env: dict[str, int]

    @property
    def types(self) -> dict[str, TensorType]:
        """Types of the results by name."""
        return {name: type_of(value) for name, value in self.function.results.items()}

    def check(self, kernel: Callable[..., None]) -> bool:
        """Compare kernel and interpreter; False if a decision in the program hangs on rounding."""
        types = self.types
        expected = evaluate(self.module, self.name, self.arrays)
        exact = evaluate(self.module, self.name, self.arrays, compute=np.float64)
        actual = self.run(kernel)
        losses = {n: sensitivity(expected[n], exact[n], t.dtype) for n, t in types.items()}
        for name, loss in losses.items():
            if loss is None:
                return False
            assert_close(actual[name], expected[name], types[name].dtype, loss)
        return True

    def run(self, kernel: Callable[..., None], split: int | None = None) -> dict[str, np.ndarray]:
        """The results, computed in one call or in calls of `split` tiles, last tiles first."""
        results = {n: np.full(t.resolve(self.env), 7, t.dtype.numpy) for n, t in self.types.items()}
        sides = {"input": [np.ascontiguousarray(a) for a in self.arrays.values()], "result": list(results.values())}
        pointers = [sides[slot.side][slot.index].ctypes.data for slot in self.match.operands]
        spec = self.match.spec
        dims = {name: evaluate_expr(self.match.dims[name], self.env) for name in spec.dims}
        tiles = evaluate_expr(spec.tiles, dims)
        scratch = ctypes.create_string_buffer(spec.scratch_bytes + 64)
        table, extents = (ctypes.c_void_p * len(pointers))(*pointers), (ctypes.c_int64 * len(dims))(*dims.values())
        step = split or tiles
        for begin in reversed(range(0, tiles, step)):
            end = min(tiles, begin + step)
            kernel(table, extents, ctypes.c_int64(begin), ctypes.c_int64(end), scratch)
        return results


def finish(builder: GroupBuilder, results: Sequence[mlir.Value]) -> Case:
    """Return `results` from the group, for which there must be a kernel."""
    bound = {d for argument in builder.point.block.arguments for d in type_of(argument).shape}
    for symbol in SYMBOLS.keys() - set(map(str, bound)):  # only shapes of inputs tell what symbols are
        builder.input(tensor((symbol,)), 0, 1)
    function = builder.builder.finish({str(i): v for i, v in enumerate(results)})
    found = match(function)
    assert isinstance(found, Match), f"{builder.name}: {found}\n{function.operation}"
    return Case(builder.name, builder.module, function, found, builder.arrays, builder.env)


def compile_all(cases: Sequence[Case], isa: Isa, folder: Path) -> dict[str, Callable[..., None]]:
    """The kernel of each case, by its name; equal specs are compiled once."""
    library = Library(isa)
    for spec in {c.match.spec: None for c in cases}:
        spec.emit(library)
    out = folder / f"{isa.name}-{len(list(folder.iterdir()))}.so"
    toolchain.build_shared_object(library, out)
    loaded = ctypes.CDLL(str(out))
    return {c.name: getattr(loaded, c.match.spec.name) for c in cases}
