"""FP8 on the CPU: conversions agree with ml_dtypes bit by bit, linears with the interpreter."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from warploom.codegen.cpu import toolchain
from warploom.codegen.cpu.control import loop
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.isa import LEVELS
from warploom.codegen.cpu.kernels.linear_spec import LinearSpec
from warploom.codegen.cpu.values import LANES
from warploom.ir.layouts import pack_array
from warploom.ir.ops.dequantize import dequantize
from warploom.ir.ops.quantize import quantize, quantize_static
from warploom.runtime.machine import cpu_features

F8 = ml_dtypes.float8_e4m3fn
SPEC = LinearSpec(40, 48, "f8e4m3", None, "residual")
GROUPED = LinearSpec(40, 96, "f8e4m3", None, "residual", groups=3)
STATIC = LinearSpec(40, 48, "f8e4m3", static=True)
RUNNABLE = [level for level in LEVELS if cpu_features().issuperset(level.features)]


@pytest.fixture(scope="module", params=RUNNABLE, ids=lambda isa: isa.name)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    made = Library(request.param)
    for name, source, target in (("widen", "f8e4m3", "f32"), ("narrow", "f32", "f8e4m3")):
        with made.kernel(name, {"x": source, "y": target}, ["N"]) as k, loop(0, k.dims["N"], LANES) as i:
            k.operands["y"].store(i, k.operands["x"].load(i))
    SPEC.emit(made)
    STATIC.emit(made)
    GROUPED.emit(made)
    path: Path = tmp_path_factory.mktemp("fp8") / "kernels.so"
    toolchain.build_shared_object(made, path)
    return ctypes.CDLL(str(path))


def call(kernel: Callable[..., None], arrays: list[np.ndarray], size: int, tiles: int = 1, scratch: int = 0) -> None:
    args = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
    memory = np.zeros(scratch, np.uint8)
    kernel(args, (ctypes.c_int64 * 1)(size), *map(ctypes.c_int64, (0, tiles)), ctypes.c_void_p(memory.ctypes.data))


def test_every_number_is_read_exactly(library: ctypes.CDLL) -> None:
    codes = np.arange(256, dtype=np.uint8)
    found = np.zeros(256, np.float32)
    call(library.widen, [codes, found], 256)
    np.testing.assert_array_equal(found, codes.view(F8).astype(np.float32))


def test_floats_are_rounded_as_ml_dtypes_rounds_them(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    exact = np.arange(256, dtype=np.uint8).view(F8).astype(np.float32)
    between = (exact[:126] + exact[1:127]) / 2  # ties
    wild = rng.standard_normal(4096).astype(np.float32) * np.exp2(rng.integers(-14, 9, 4096)).astype(np.float32)
    special = np.array([0.0, -0.0, 464, 465, -1e30, np.inf, np.nan, 2**-10, 2**-11], np.float32)
    x = np.concatenate((exact, between, -between, wild, special))
    x = np.resize(x, -(-len(x) // LANES) * LANES)
    found = np.zeros(len(x), np.uint8)
    call(library.narrow, [x, found], len(x))
    with np.errstate(all="ignore"):
        expected = x.astype(F8)
    np.testing.assert_array_equal(found.view(F8).astype(np.float32), expected.astype(np.float32))
    np.testing.assert_array_equal(
        np.signbit(found.view(F8).astype(np.float32)), np.signbit(expected.astype(np.float32))
    )


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_linears_mean_what_the_interpreter_says(library: ctypes.CDLL, rows: int) -> None:
    rng = np.random.default_rng(rows)
    how: dict[str, Any] = {"dtype": "f8e4m3", "group": 0, "scale_dtype": "f32"}
    x = rng.standard_normal((rows, SPEC.k), np.float32)
    residual = rng.standard_normal((rows, SPEC.n), np.float32)
    q, scale = quantize.evaluate(rng.standard_normal((SPEC.n, SPEC.k), np.float32), **how)
    y = np.zeros((rows, SPEC.n), np.float32)
    arrays = [x, pack_array(q, "panel"), pack_array(scale, "panel"), residual, y]
    call(library[SPEC.name], arrays, rows, eval(SPEC.tiles, {"T": rows}), SPEC.scratch_bytes)
    expected = dequantize.evaluate(*quantize.evaluate(x, **how)) @ dequantize.evaluate(q, scale).T + residual
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_a_scale_that_is_known_before_is_used_and_what_is_beyond_it_is_clamped(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, STATIC.k), np.float32)
    x_scale = np.array([1.5 / 448], np.float32)
    weight = rng.standard_normal((STATIC.n, STATIC.k), np.float32)
    q, scale = quantize.evaluate(weight, dtype="f8e4m3", group=0, scale_dtype="f32")
    y = np.zeros((5, STATIC.n), np.float32)
    arrays = [x, pack_array(q, "panel"), pack_array(scale, "panel"), x_scale, y]
    call(library[STATIC.name], arrays, 5, eval(STATIC.tiles, {"T": 5}), STATIC.scratch_bytes)
    read = quantize_static.evaluate(x, x_scale, dtype="f8e4m3").astype(np.float32) * x_scale
    assert np.abs(x).max() > 1.6 > 1.51 > np.abs(read).max()
    np.testing.assert_allclose(y, read @ dequantize.evaluate(q, scale).T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_scales_of_blocks_belong_to_the_weight_and_x_stays_as_it_is(library: ctypes.CDLL, rows: int) -> None:
    rng = np.random.default_rng(rows)
    x = rng.standard_normal((rows, GROUPED.k), np.float32)
    residual = rng.standard_normal((rows, GROUPED.n), np.float32)
    weight = rng.standard_normal((GROUPED.n, GROUPED.k), np.float32) * np.repeat([1, 20, 0.1], 32).astype(np.float32)
    q, scale = quantize.evaluate(weight, dtype="f8e4m3", group=32, scale_dtype="f32")
    y = np.zeros((rows, GROUPED.n), np.float32)
    arrays = [x, pack_array(q, "panel"), pack_array(scale, "panel"), residual, y]
    call(library[GROUPED.name], arrays, rows, eval(GROUPED.tiles, {"T": rows}), GROUPED.scratch_bytes)
    np.testing.assert_allclose(y, x @ dequantize.evaluate(q, scale).T + residual, rtol=1e-4, atol=1e-4)
    alone = np.zeros((1, GROUPED.n), np.float32)
    last = [x[-1:].copy(), *arrays[1:3], residual[-1:].copy(), alone]
    call(library[GROUPED.name], last, 1, eval(GROUPED.tiles, {"T": 1}), GROUPED.scratch_bytes)
    np.testing.assert_array_equal(alone[0], y[-1])
