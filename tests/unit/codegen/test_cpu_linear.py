"""Linear kernels: right against float64, the same bits whatever the batch, the tiles, the threads and the ISA level."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.unit.codegen.linear_rows import run_rows
from warploom.codegen.cpu import toolchain
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.isa import LEVELS, Isa
from warploom.codegen.cpu.kernels.linear_spec import LinearSpec

CPU_FLAGS = set(Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split())
RUNNABLE = [level for level in LEVELS if CPU_FLAGS.issuperset(level.features)]
SPECS = {
    "plain_f32": LinearSpec(n=96, k=64, weight="f32"),
    "tail_bf16": LinearSpec(n=40, k=50, weight="bf16"),
    "tail_i8_residual": LinearSpec(n=200, k=36, weight="i8", epilogue="residual"),
    "norm_bf16_residual": LinearSpec(n=64, k=144, weight="bf16", norm_eps=1e-5, epilogue="residual"),
    "norm_tail_i8": LinearSpec(n=33, k=57, weight="i8", norm_eps=1e-6),
    "swiglu_f32": LinearSpec(n=128, k=32, weight="f32", norm_eps=1e-5, epilogue="swiglu"),
    "swiglu_tail_bf16": LinearSpec(n=2 * 72, k=40, weight="bf16", epilogue="swiglu"),
    "swiglu_i8": LinearSpec(n=320, k=64, weight="i8", norm_eps=1e-5, epilogue="swiglu"),
}
BATCHES = (1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 16, 17, 20, 25, 193)


@dataclass
class Case:
    """Random operands of one spec, and the weights as the kernel sees them, in float64 [N, K]."""

    spec: LinearSpec
    buffers: dict[str, np.ndarray]
    weights: np.ndarray

    @staticmethod
    def make(spec: LinearSpec, rows: int) -> Case:
        rng = np.random.default_rng(spec.n * spec.k)
        dense = rng.standard_normal((spec.panels_per_unit, spec.outputs, spec.k), np.float32)
        padded = np.zeros((spec.panels_per_unit, spec.units * 32, spec.k), np.float32)
        padded[:, : spec.outputs] = dense
        panels = padded.reshape(spec.panels_per_unit, spec.units, 32, spec.k).transpose(1, 0, 3, 2)
        panels = np.ascontiguousarray(panels).reshape(-1, spec.k, 32)
        buffers = {"x": rng.standard_normal((rows, spec.k), np.float32)}
        if spec.weight == "i8":
            scale = np.maximum(np.abs(panels).max(axis=1), 1e-6) / np.float32(127)
            buffers["weight"] = np.rint(panels / scale[:, None]).astype(np.int8)
            buffers["scale"] = scale.astype(np.float32)
            seen = buffers["weight"].astype(np.float64) * buffers["scale"][:, None]
        else:
            dtype = np.float32 if spec.weight == "f32" else ml_dtypes.bfloat16
            buffers["weight"] = panels.astype(dtype)
            seen = buffers["weight"].astype(np.float64)
        buffers["norm"] = rng.standard_normal(spec.k, np.float32)
        buffers["residual"] = rng.standard_normal((rows, spec.outputs), np.float32)
        unpacked = seen.transpose(0, 2, 1).reshape(spec.units, spec.panels_per_unit, 32, spec.k).transpose(1, 0, 2, 3)
        weights = unpacked.reshape(spec.panels_per_unit, -1, spec.k)[:, : spec.outputs]
        return Case(spec, buffers, weights)

    def expected(self) -> np.ndarray:
        x = self.buffers["x"].astype(np.float64)
        if self.spec.norm_eps is not None:
            x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + self.spec.norm_eps) * self.buffers["norm"]
        y = x @ self.weights[-1].T
        if self.spec.epilogue == "swiglu":
            gate = x @ self.weights[0].T
            y *= gate / (1 + np.exp(-gate))
        return y + self.buffers["residual"] if self.spec.epilogue == "residual" else y

    def run(self, kernel: Callable[..., None], rows: slice, split: int = 1) -> np.ndarray:
        """See `run_rows`."""
        return run_rows(self.spec, self.buffers, kernel, rows, split)


@pytest.fixture(scope="module", params=RUNNABLE, ids=lambda isa: isa.name)
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build(request.param, tmp_path_factory.mktemp("linear"))


def build(isa: Isa, folder: Path) -> ctypes.CDLL:
    library = Library(isa)
    for spec in SPECS.values():
        spec.emit(library)
    toolchain.build_shared_object(library, folder / "kernels.so")
    return ctypes.CDLL(str(folder / "kernels.so"))


@pytest.mark.parametrize("name", SPECS)
def test_close_to_float64_and_batch_invariant(name: str, kernels: ctypes.CDLL) -> None:
    case, kernel = Case.make(SPECS[name], max(BATCHES)), kernels[SPECS[name].name]
    alone = np.concatenate([case.run(kernel, slice(row, row + 1)) for row in range(max(BATCHES))])
    expected = case.expected()
    np.testing.assert_allclose(alone, expected, rtol=2e-5, atol=2e-6 * np.abs(expected).max())
    for rows in BATCHES:
        np.testing.assert_array_equal(case.run(kernel, slice(0, rows)), alone[:rows], err_msg=f"T = {rows}")
        np.testing.assert_array_equal(case.run(kernel, slice(0, rows), split=3), alone[:rows], err_msg="split tiles")


@pytest.mark.skipif(len(RUNNABLE) < 2, reason="needs a machine with AVX-512")
def test_isa_levels_give_the_same_bits(tmp_path: Path) -> None:
    folders = [tmp_path / isa.name for isa in RUNNABLE]
    for folder in folders:
        folder.mkdir()
    loaded = [build(isa, folder) for isa, folder in zip(RUNNABLE, folders, strict=True)]
    for name, spec in SPECS.items():
        case = Case.make(spec, 30)
        first, second = (case.run(library[spec.name], slice(0, 30)) for library in loaded)
        np.testing.assert_array_equal(first, second, err_msg=name)


def test_in_place_residual(kernels: ctypes.CDLL) -> None:
    spec = SPECS["norm_bf16_residual"]
    case = Case.make(spec, 13)
    y = case.buffers["residual"].copy()
    buffers = case.buffers | {"residual": y, "y": y}
    operands = [buffers[name] for name in spec.operands]
    args = (ctypes.c_void_p * len(operands))(*(array.ctypes.data for array in operands))
    scratch = np.zeros(spec.scratch_bytes, np.uint8)
    tiles = ctypes.c_int64(eval(spec.tiles, {"T": 13}))
    kernel = kernels[spec.name]
    kernel(args, (ctypes.c_int64 * 1)(13), ctypes.c_int64(0), tiles, ctypes.c_void_p(scratch.ctypes.data))
    np.testing.assert_array_equal(y, case.run(kernel, slice(0, 13)))


def test_costs_count_what_the_layer_needs() -> None:
    spec = LinearSpec(n=3072, k=576, weight="bf16", norm_eps=1e-5, epilogue="swiglu")
    assert eval(spec.flops, {"T": 2}) == 2 * 2 * 3072 * 576
    assert eval(spec.bytes, {"T": 1}) == 3072 * 576 * 2 + 4 * (576 + 1536)
    assert eval(spec.tiles, {"T": 1}) == spec.units == 48
    assert list(spec.operands) == ["x", "weight", "norm", "y"]


def test_text_is_deterministic() -> None:
    def text() -> str:
        library = Library(LEVELS[0])
        SPECS["swiglu_i8"].emit(library)
        return library.source(SPECS["swiglu_i8"].name)

    assert text() == text()


def test_names_are_unique_c_identifiers() -> None:
    names = [spec.name for spec in SPECS.values()]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() for name in names)
