"""The kernel kit end to end: emitted MLIR, compiled per ISA level, called through ctypes."""

from __future__ import annotations

import ctypes
import itertools
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlir.dialects import llvm

from warploom.codegen.cpu import math as kernel_math
from warploom.codegen.cpu import toolchain
from warploom.codegen.cpu.control import carry, carry_if, carry_while, loop, when
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.isa import LEVELS, X86_64_V3, X86_64_V4, Isa
from warploom.codegen.cpu.memory import Ptr, first_lanes
from warploom.codegen.cpu.values import (
    LANES,
    Value,
    constant,
    convert_int,
    intrinsic,
    iota,
    lane,
    mlir_type,
    reduce_add,
    reduce_max,
    select,
    to_f32,
    to_i32,
)
from warploom.errors import CompileError

CPU_FLAGS = set(Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split())
RUNNABLE = [level for level in LEVELS if CPU_FLAGS.issuperset(level.features)]
LIBRARY_NUMBERS = itertools.count()
on_every_isa = pytest.mark.parametrize("isa", RUNNABLE, ids=lambda isa: isa.name)


def compiled(library: Library, folder: Path) -> ctypes.CDLL:
    out = folder / f"{next(LIBRARY_NUMBERS)}.so"  # a path loaded once stays loaded
    toolchain.build_shared_object(library, out)
    return ctypes.CDLL(str(out))


def call(kernel: Callable[..., None], arrays: list[np.ndarray], dims: list[int], tiles: int) -> None:
    args = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
    scratch = ctypes.create_string_buffer(1 << 16)
    kernel(args, (ctypes.c_int64 * len(dims))(*dims), ctypes.c_int64(0), ctypes.c_int64(tiles), scratch)


def bf16(values: np.ndarray) -> np.ndarray:
    """The oracle: f32 to bf16 bits by numpy's exact rounding through ml_dtypes."""
    import ml_dtypes

    return values.astype(ml_dtypes.bfloat16).view(np.uint16)


@on_every_isa
def test_masked_rows_round_to_bf16(isa: Isa, tmp_path: Path) -> None:
    library, rows, columns = Library(isa), 3, 37
    with library.kernel("narrow", {"x": "f32", "y": "bf16"}, dims=["T"]) as k:
        x, y = k.operands["x"], k.operands["y"]
        with k.tiles() as row, loop(0, columns, LANES) as i:
            mask = first_lanes(columns - i)
            y.store(row * columns + i, x.load(row * columns + i, mask=mask) * 2.0, mask=mask)
    x = np.random.default_rng(0).standard_normal((rows, columns), np.float32)
    x[0, :4] = [np.inf, -np.inf, np.nan, 3.4e38]
    y = np.zeros((rows + 1, columns), np.uint16)
    call(compiled(library, tmp_path).narrow, [x, y], [rows], rows)
    with np.errstate(over="ignore"):
        expected = bf16(x * 2)
    np.testing.assert_array_equal(y[:rows].view("u2") << 1 >> 1, expected << 1 >> 1)
    assert not y[rows].any()  # nothing written past the end


@on_every_isa
def test_loops_branches_and_reductions(isa: Isa, tmp_path: Path) -> None:
    library, width = Library(isa), 64
    with library.kernel("facts", {"x": "f32", "bytes": "i8", "y": "f32"}) as k:
        x, y = k.operands["x"], k.operands["y"]
        with k.tiles():
            (total,) = carry(0, width, [constant(0.0, "f32", LANES)], lambda i, acc: [acc + x.load(i)], LANES)
            y[0] = reduce_add(total)
            y[1] = reduce_max(x.load(0))
            (largest_power,) = carry_while([constant(1, "i32")], lambda n: n * 2 < 1000, lambda n: [n * 2])
            y[2] = to_f32(largest_power)
            (clipped,) = carry_if(x[0] > 0.0, [x[0]], lambda _: [constant(-5.0, "f32")])
            y[3] = clipped
            y[4] = reduce_add(to_f32(k.operands["bytes"].load(0)))
            y[5] = lane(x.load(16), constant(3, "i64"))
            with when(x[1] > x[0]):
                y[6] = constant(1.0, "f32")
            y[7] = to_f32(to_i32(x[2] * 100.0))
            y[8] = reduce_add(select(iota() < 4, x.load(0), 0.0))
    x = np.arange(width, dtype=np.float32) + 0.25
    data = np.array([-8, 7, -128, 127] * 4, np.int8)
    y = np.zeros(9, np.float32)
    call(compiled(library, tmp_path).facts, [x, data, y], [], 1)
    expected = [x.sum(), 15.25, 512, -5, data.astype(int).sum(), 19.25, 1, 225, x[:4].sum()]
    np.testing.assert_array_equal(y, np.array(expected, np.float32))


def evaluate(isa: Isa, folder: Path, functions: dict[str, Callable[[Value], Value]], x: np.ndarray) -> dict:
    """Each function at every x (length a multiple of 16), as vectors; the last 16 also as scalars, which must agree."""
    library = Library(isa)
    for name, function in functions.items():
        with library.kernel(name, {"x": "f32", "y": "f32"}, dims=["N"]) as k:
            source, target = k.operands["x"], k.operands["y"]
            with loop(0, k.dims["N"], LANES) as i:
                target.store(i, function(source.load(i)))
            with loop(k.dims["N"], k.dims["N"] + LANES) as i:
                target[i] = function(source[i - LANES])
    loaded, results = compiled(library, folder), {}
    for name in functions:
        y = np.zeros(x.size + LANES, np.float32)
        call(loaded[name], [x, y], [x.size], 1)
        np.testing.assert_array_equal(y[x.size :], y[x.size - LANES : x.size])
        results[name] = y[: x.size]
    return results


SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 88.7, 88.8, -87.4, -103.9, -104.1, 3e38, -3e38, 1, -1]
)


@on_every_isa
def test_elementary_functions_are_accurate(isa: Isa, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(-104, 89, 8192), rng.uniform(-6, 6, 8192), rng.normal(0, 1e-2, 4096), SPECIAL])
    x = x.astype(np.float32)
    names = ("exp", "tanh", "erf", "logistic", "silu", "gelu", "gelu_tanh")
    got = evaluate(isa, tmp_path, {name: getattr(kernel_math, name) for name in names}, x)
    finite, wide = np.isfinite(x) & (np.abs(x) < 80), x.astype(np.float64)
    erf = np.array([math.erf(v) for v in wide])
    with np.errstate(all="ignore"):
        half_erf = np.array([math.erf(v) for v in wide / math.sqrt(2)])
        tanh_inner = np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))
        oracle = {
            "exp": np.exp(wide),
            "tanh": np.tanh(wide),
            "erf": erf,
            "logistic": 1 / (1 + np.exp(-wide)),
            "silu": wide / (1 + np.exp(-wide)),
        }
        for name, expected in oracle.items():
            np.testing.assert_allclose(got[name][finite], expected[finite], rtol=4e-7, atol=1e-37, err_msg=name)
        # Near -6, 1 + erf cancels: the error is absolute there, as in every f32 implementation of the formula.
        np.testing.assert_allclose(got["gelu"][finite], (wide * 0.5 * (1 + half_erf))[finite], rtol=4e-7, atol=4e-7)
        np.testing.assert_allclose(
            got["gelu_tanh"][finite], (wide * 0.5 * (1 + tanh_inner))[finite], rtol=5e-7, atol=4e-7
        )


@on_every_isa
def test_exp_and_log_at_the_edges(isa: Isa, tmp_path: Path) -> None:
    x = SPECIAL.astype(np.float32)
    got = evaluate(isa, tmp_path, {"exp": kernel_math.exp, "log": kernel_math.log}, x)
    with np.errstate(all="ignore"):
        expected = np.exp(x.astype(np.float64)).astype(np.float32)
        logs = np.log(x.astype(np.float64)).astype(np.float32)
    np.testing.assert_allclose(got["exp"], expected, rtol=2e-7, atol=3e-45)
    assert got["exp"][0] == 1.0
    np.testing.assert_allclose(got["log"], logs, rtol=2e-7)


@on_every_isa
def test_log_and_trigonometry(isa: Isa, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    positive = np.exp(rng.uniform(-100, 88, 16384)).astype(np.float32)
    log = evaluate(isa, tmp_path, {"log": kernel_math.log}, positive)["log"]
    np.testing.assert_allclose(log, np.log(positive.astype(np.float64)), rtol=2e-7, atol=6e-8)
    angles = np.concatenate([rng.uniform(-1e5, 1e5, 16384), rng.uniform(-4, 4, 4096)]).astype(np.float32)
    functions = {"sin": lambda v: kernel_math.sin_cos(v)[0], "cos": lambda v: kernel_math.sin_cos(v)[1]}
    got = evaluate(isa, tmp_path, functions, angles)
    np.testing.assert_allclose(got["sin"], np.sin(angles.astype(np.float64)), atol=1.2e-7)
    np.testing.assert_allclose(got["cos"], np.cos(angles.astype(np.float64)), atol=1.2e-7)


def test_levels_use_their_vector_width(tmp_path: Path) -> None:
    for isa, wide in ((X86_64_V3, False), (X86_64_V4, True)):
        library = Library(isa)
        with library.kernel("double", {"x": "f32"}) as k, k.tiles() as tile:
            x = k.operands["x"]
            x.store(tile * LANES, x.load(tile * LANES) * 2.0)
        out = tmp_path / "kernels.o"
        toolchain.assemble(toolchain.lower(library), isa, out)
        objdump = Path(toolchain._llvm_tool("llc")).with_name("llvm-objdump")
        text = subprocess.run([objdump, "-d", out], capture_output=True, text=True, check=True).stdout
        assert ("zmm" in text) == wide
        assert "ymm" in text or wide


def test_emitting_twice_gives_the_same_text() -> None:
    def text() -> str:
        library = Library(X86_64_V4)
        with library.kernel("f", {"x": "f32"}, location="model.norm") as k, k.tiles() as tile:
            k.operands["x"].store(tile, kernel_math.exp(k.operands["x"].load(tile)))
        return library.source("f") + toolchain.lower(library)

    assert text() == text()


def test_kernels_of_one_name_are_refused() -> None:
    library = Library(X86_64_V4)
    with library.kernel("f", {}):
        pass
    with pytest.raises(ValueError, match="already defined"), library.kernel("f", {}):
        pass


def test_operands_of_different_types_are_refused() -> None:
    with Library(X86_64_V4).kernel("f", {"x": "f32"}) as k, pytest.raises(TypeError, match="differ"):
        _ = k.operands["x"][0] + k.begin
    with Library(X86_64_V4).kernel("f", {"x": "i8"}) as k, pytest.raises(TypeError, match="cannot store"):
        k.operands["x"][0] = constant(1.0, "f32")
    with Library(X86_64_V4).kernel("f", {}) as k, pytest.raises(TypeError, match="not defined"):
        _ = k.begin / 2


def test_calls_into_a_math_library_are_refused(tmp_path: Path) -> None:
    library = Library(X86_64_V3)
    with library.kernel("f", {"x": "f32"}) as k:
        k.operands["x"][0] = intrinsic("llvm.sin.f32", [k.operands["x"][0]], "f32")
    with pytest.raises(CompileError, match="sinf"):
        toolchain.build_shared_object(library, tmp_path / "out.so")


def test_stack_memory_in_a_loop_is_refused() -> None:
    library = Library(X86_64_V3)
    with library.kernel("f", {"x": "f32"}) as k, k.tiles() as tile:
        one = convert_int(tile, "i32")
        stack = llvm.AllocaOp(llvm.PointerType.get(), one.ssa, mlir_type("i64")).result
        Ptr(stack, "i64")[0] = tile
        k.operands["x"].cast("i64")[tile] = Ptr(stack, "i64")[tile]
    with pytest.raises(CompileError, match="kernel f allocates"):
        toolchain.lower(library)


def test_a_missing_c_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(CompileError, match="apt-get install gcc"):
        toolchain.link([], [], tmp_path / "out.so")
