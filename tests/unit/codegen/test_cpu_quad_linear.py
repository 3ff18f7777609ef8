"""Linear kernels on int8 and int4 weights: as the interpreter says, the same bits whatever the batch and the tiles."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.codegen.linear_rows import run_rows
from warploom.codegen.cpu import toolchain
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.isa import LEVELS, Isa
from warploom.codegen.cpu.kernels.linear_spec import LinearSpec
from warploom.codegen.cpu.kernels.quads import QuadFormat
from warploom.ir.layouts import pack_array
from warploom.ir.ops.dequantize import dequantize
from warploom.ir.ops.quantize import quantize, quantize_affine
from warploom.runtime.machine import cpu_features

RUNNABLE = [level for level in LEVELS if cpu_features().issuperset(level.features)]
SPECS = {
    "int8": LinearSpec(96, 64, QuadFormat(64, nibbles=False)),
    "int8_norm_residual_tail": LinearSpec(40, 96, QuadFormat(96, nibbles=False), 1e-5, "residual"),
    "int8_swiglu": LinearSpec(128, 64, QuadFormat(64, nibbles=False), 1e-5, "swiglu"),
    "int8_groups": LinearSpec(64, 96, QuadFormat(96, nibbles=False, groups=3, scale="f16")),
    "int4": LinearSpec(200, 64, QuadFormat(64, nibbles=True, groups=2, scale="f16")),
    "int4_g64_norm_residual": LinearSpec(33, 128, QuadFormat(128, True, 2, "f16"), 1e-6, "residual"),
    "int4_offsets_swiglu": LinearSpec(192, 64, QuadFormat(64, True, 2, "f16", offsets=True), 1e-5, "swiglu"),
    "int8_offsets": LinearSpec(64, 64, QuadFormat(64, False, 1, "f32", offsets=True)),
    "int4_ordered_residual": LinearSpec(40, 96, QuadFormat(96, True, 3, "f16"), None, "residual", ordered=True),
    "int8_ordered_norm": LinearSpec(64, 64, QuadFormat(64, False, 2, "f32", offsets=True), 1e-5, ordered=True),
}
BATCHES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 17, 193)


@dataclass
class Case:
    """Random operands of one spec, and what the weights stand for, f32 [N, K]."""

    spec: LinearSpec
    buffers: dict[str, np.ndarray]
    weights: np.ndarray

    @staticmethod
    def make(spec: LinearSpec, rows: int) -> Case:
        form = spec.weight
        assert isinstance(form, QuadFormat)
        rng = np.random.default_rng(spec.n * spec.k)
        dense = rng.standard_normal((spec.n, spec.k), np.float32)
        dense[1] = 0
        how: dict[str, Any] = {
            "dtype": "i4" if form.nibbles else "i8",
            "group": spec.k // form.groups,
            "scale_dtype": form.scale,
        }
        q, *sides = (quantize_affine if form.offsets else quantize).evaluate(dense, **how)
        sides = [side.astype({"f32": np.float32, "f16": np.float16}[form.scale]) for side in sides]
        if not form.nibbles and not form.offsets:
            q[0, :4] = -128, -127, 127, 0  # not what `quantize` makes, but other checkpoints do
        pair = "_pair" if spec.epilogue == "swiglu" else ""
        buffers = {
            "x": rng.standard_normal((rows, spec.k), np.float32),
            "weight": pack_array(q, f"{'quad4' if form.nibbles else 'quad'}{pair}"),
            **{name: pack_array(side, f"panel{pair}") for name, side in zip(("scale", "offset"), sides, strict=False)},
            "order": rng.permutation(spec.k).astype(np.int32),
            "norm": rng.standard_normal(spec.k, np.float32),
            "residual": rng.standard_normal((rows, spec.outputs), np.float32),
        }
        buffers["x"][0, :32] = 0
        return Case(spec, buffers, dequantize.evaluate(q, *(side.astype(np.float32) for side in sides)))

    def expected(self) -> np.ndarray:
        x = self.buffers["x"][:, self.buffers["order"]] if self.spec.ordered else self.buffers["x"]
        if self.spec.norm_eps is not None:
            mean = (x.astype(np.float64) ** 2).mean(axis=1, keepdims=True)
            x = (x / np.sqrt(mean + self.spec.norm_eps) * self.buffers["norm"]).astype(np.float32)
        q, scale = quantize.evaluate(x, dtype="i8", group=32, scale_dtype="f32")
        y = dequantize.evaluate(q, scale).astype(np.float64) @ self.weights.T.astype(np.float64)
        if self.spec.epilogue == "swiglu":
            gate, up = np.split(y, 2, axis=1)
            return gate / (1 + np.exp(-gate)) * up
        return y + self.buffers["residual"] if self.spec.epilogue == "residual" else y

    def run(self, kernel: Callable[..., None], rows: slice, split: int = 1) -> np.ndarray:
        """See `run_rows`."""
        return run_rows(self.spec, self.buffers, kernel, rows, split)


@pytest.fixture(scope="module", params=RUNNABLE, ids=lambda isa: isa.name)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build(request.param, tmp_path_factory.mktemp("quads") / "kernels.so")


def build(isa: Isa, path: Path) -> ctypes.CDLL:
    made = Library(isa)
    for spec in SPECS.values():
        spec.emit(made)
    toolchain.build_shared_object(made, path)
    return ctypes.CDLL(str(path))


@pytest.mark.parametrize("name", SPECS)
def test_kernel_means_what_the_interpreter_says(library: ctypes.CDLL, name: str) -> None:
    case = Case.make(SPECS[name], 9)
    found = case.run(library[SPECS[name].name], slice(0, 9))
    expected = case.expected()
    # A norm that rounds otherwise moves an activation by one step now and then.
    tolerance = 2e-2 if SPECS[name].norm_eps is not None else 1e-5
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", SPECS)
def test_rows_do_not_depend_on_their_batch_or_on_the_split(library: ctypes.CDLL, name: str) -> None:
    case = Case.make(SPECS[name], max(BATCHES))
    kernel = library[SPECS[name].name]
    alone = np.concatenate([case.run(kernel, slice(i, i + 1)) for i in range(20)])
    for count in BATCHES:
        for split in (1, 3):
            found = case.run(kernel, slice(0, count), split)
            np.testing.assert_array_equal(found[:20], alone[:count])


def test_isa_levels_agree_to_the_bit(tmp_path: Path) -> None:
    libraries = [build(isa, tmp_path / f"{isa.name}.so") for isa in RUNNABLE]
    for spec in SPECS.values():
        case = Case.make(spec, 5)
        first, *others = [case.run(library[spec.name], slice(0, 5)) for library in libraries]
        for other in others:
            np.testing.assert_array_equal(other, first)
