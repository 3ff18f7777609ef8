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
from warploom.ir.function import Function, FunctionBuilder, functions
from warploom.ir.interpreter import evaluate
from warploom.ir.ops.elementwise import maximum, minimum
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
        self.builder = FunctionBuilder(module, name, SYMBOLS, private=True)
        self.arrays: dict[str, np.ndarray] = {}
        self.values: list[mlir.Value] = []

    def integer(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def choice(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]

    def value(self, dtypes: frozenset[DType], min_rank: int = 0) -> mlir.Value:
        fitting = [v for v in self.values if type_of(v).dtype in dtypes and type_of(v).rank >= min_rank]
        if fitting and self.integer(0, 3):
            return self.choice(fitting[-3:])
        return self.fresh(self.some_type(self.choice(sorted(dtypes)), min_rank))

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
        if type_.dtype.is_float:
            low, high = (full(shape=type_.shape, value=b, dtype=type_.dtype.value) for b in (-BOUND, BOUND))
            value = minimum(maximum(value, low), high)
        self.values.append(value)


@dataclass(frozen=True)
class Case:
    """A group, its kernel, and its data."""

    name: str
    function: Function
    match: Match
    arrays: dict[str, np.ndarray]
    env: dict[str, int]

    def check(self, module: mlir.Module, kernel: Callable[..., None]) -> bool:
        """Compare kernel and interpreter; False if a decision in the program hangs on rounding."""
        types = {name: type_of(v) for name, v in self.function.results.items()}
        expected = evaluate(module, self.name, self.arrays)
        exact = evaluate(module, self.name, self.arrays, compute=np.float64)
        actual = self.run(kernel, {n: np.empty(expected[n].shape, t.dtype.numpy) for n, t in types.items()})
        losses = {n: sensitivity(expected[n], exact[n], t.dtype) for n, t in types.items()}
        for name, loss in losses.items():
            if loss is None:
                return False
            assert_close(actual[name], expected[name], types[name].dtype, loss)
        return True

    def run(
        self, kernel: Callable[..., None], results: dict[str, np.ndarray], split: int | None = None
    ) -> dict[str, np.ndarray]:
        """Fill `results`, in one call or in calls of `split` tiles, last tiles first."""
        sides = {"input": [np.ascontiguousarray(a) for a in self.arrays.values()], "result": list(results.values())}
        pointers = [sides[slot.side][slot.index].ctypes.data for slot in self.match.operands]
        spec = self.match.spec
        dims = [evaluate_expr(self.match.dims[name], self.env) for name in spec.dims]
        tiles = evaluate_expr(spec.tiles, dict(zip(spec.dims, dims, strict=True)))
        scratch = ctypes.create_string_buffer(spec.scratch_bytes + 64)
        table, extents = (ctypes.c_void_p * len(pointers))(*pointers), (ctypes.c_int64 * max(1, len(dims)))(*dims)
        for begin in reversed(range(0, tiles, split or max(1, tiles))):
            end = min(tiles, begin + split) if split else tiles
            kernel(table, extents, ctypes.c_int64(begin), ctypes.c_int64(end), scratch)
        return results


def case(module: mlir.Module, builder: GroupBuilder, name: str, results: Sequence[mlir.Value]) -> Case:
    """Finish a group that returns `results`, which a kernel must take."""
    for symbol in SYMBOLS:  # inputs bind the symbols
        if not any(dim(symbol) in type_of(a).shape for a in builder.builder.point.block.arguments):
            builder.input(tensor((symbol,)), 0, 1)
    builder.builder.finish({str(i): v for i, v in enumerate(results)})
    function = functions(module)[name]
    found = match(function)
    assert isinstance(found, Match), f"{name}: {found}\n{function.operation}"
    return Case(name, function, found, builder.arrays, builder.env)


def compile_all(cases: Sequence[Case], isa: Isa, folder: Path) -> dict[str, Callable[..., None]]:
    """The kernel of each case, by its name; equal specs are compiled once."""
    library = Library(isa)
    for spec in {c.match.spec: None for c in cases}:
        spec.emit(library)
    out = folder / f"{isa.name}-{len(list(folder.iterdir()))}.so"
    toolchain.build_shared_object(library, out)
    loaded = ctypes.CDLL(str(out))
    return {c.name: getattr(loaded, c.match.spec.name) for c in cases}
