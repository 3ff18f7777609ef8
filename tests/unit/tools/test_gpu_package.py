"""`warploom run --on cuda`: what is saved for a GPU machine, and how it is run there; the GPU is a fake one here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.cuda_fake import FakeCuda, Kernel, array_at
from warploom.ir.context import parse
from warploom.runtime.cuda import driver
from warploom.tools.cli import main
from warploom.tools.gpu_package import ARRAYS, numbers, read_package, run_package
from warploom.tools.gpu_steps import run_steps
from warploom.tools.step_values import step_values

PROGRAM = """
func.func @step(%x: tensor<?x8xbf16, #wl.dims<["T", 8]>> {wl.name = "x"})
    -> (tensor<?x8xbf16, #wl.dims<["T", 8]>> {wl.name = "y"}) attributes {wl.dims = {T = array<i64: 1, 64, 1>}} {
  %w = "wl.param"() {name = "w", shape = [8], dtype = "bf16"} : () -> tensor<8xbf16>
  %0 = "wl.broadcast"(%w) {shape = ["T", 8], dims = array<i64: 1>}
      : (tensor<8xbf16>) -> tensor<?x8xbf16, #wl.dims<["T", 8]>>
  %1 = "wl.add"(%x, %0) : (TYPE, TYPE) -> TYPE
  return %1 : TYPE
}
func.func @other(%x: tensor<4xf32> {wl.name = "x"}) -> (tensor<4xf32> {wl.name = "y"}) {
  %0 = "wl.exp"(%x) : (tensor<4xf32>) -> tensor<4xf32>
  return %0 : tensor<4xf32>
}
func.func @prepare() {
  %0 = "wl.checkpoint"() {name = "w", shape = [8], dtype = "bf16"} : () -> tensor<8xbf16>
  "wl.export"(%0) {name = "w"} : (tensor<8xbf16>) -> ()
  return
}
""".replace("TYPE", 'tensor<?x8xbf16, #wl.dims<["T", 8]>>')
BF16 = ml_dtypes.bfloat16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, compiled and saved with five rows of data."""
    root = tmp_path_factory.mktemp("package")
    (root / "program.mlir").write_text(PROGRAM)
    arguments = [str(root / "program.mlir"), "--on", "cuda:sm_90", "--dims", "T=5"]
    assert main(["run", *arguments, "--save", str(root / "saved")]) == 0
    return root / "saved"


def gpu(folder: Path, wrong: float = 0.0) -> FakeCuda:
    """A GPU whose kernel computes the program, or something wrong."""

    def kernel(grid: tuple[int, ...], w: int, x: int, out: int, tokens: int) -> None:
        rows, row = array_at(x, BF16, (tokens, 8)), array_at(w, BF16, (8,))
        array_at(out, BF16, (tokens, 8))[...] = rows + row + BF16(wrong)

    ((name, info),) = read_package(folder)[0].plan.kernels.items()
    assert info.cuda is not None
    kinds = ["i32" if type(param).__name__ == "DimParam" else "pointer" for param in info.cuda.params]
    kernels: dict[str, tuple[Kernel, list[str]]] = {name: (kernel, kinds)}
    return FakeCuda(kernels)


def test_what_is_saved_runs_and_holds_what_the_interpreter_computed(folder: Path) -> None:
    package, arrays = read_package(folder)
    assert (package.entry, package.dims, package.against) == ("step", {"T": 5}, "interpreter")
    assert list(package.plan.entries) == ["step"], "other entries are not compiled"
    api = gpu(folder)
    found = run_package(folder, api=api)
    np.testing.assert_array_equal(numbers(found["y"], "bf16"), numbers(arrays["expected"]["y"], "bf16"))
    assert not api.allocated, "all memory is given back"
    assert set(api.live.values()) == {0}


def test_the_command_line_compares(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(driver, "_bindings", lambda: gpu(folder))
    assert main(["run", str(folder)]) == 0
    assert "5 x 8" in capsys.readouterr().out
    monkeypatch.setattr(driver, "_bindings", lambda: gpu(folder, wrong=1.0))
    assert main(["run", str(folder)]) == 2
    assert "on cuda:sm_90 disagrees with interpreter in y" in capsys.readouterr().err


def test_a_program_runs_on_the_gpu_of_this_machine(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(driver, "_bindings", lambda: gpu(folder))
    program = str(folder.parent / "program.mlir")
    assert main(["run", program, "--on", "cuda", "--against", "interpreter", "--dims", "T=5"]) == 0
    assert main(["run", program, "--against", "cuda", "--dims", "T=5"]) == 0
    monkeypatch.setattr(driver, "_bindings", lambda: gpu(folder, wrong=1.0))
    assert main(["run", program, "--against", "cuda:sm_90", "--dims", "T=5"]) == 2
    assert "disagrees with cuda:sm_90" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{program}", "--on", "cuda", "--save", "{new}"], "--on cuda:sm_90"),
        (["{program}", "--on", "cpu", "--save", "{new}"], "--on cuda:sm_90"),
        (["{program}", "--on", "cuda:sm_91", "--save", "{new}"], "sm_91"),
        (["{program}", "--on", "cuda:sm_90", "--save", "{saved}"], "exists already"),
        (["{root}"], "is no program to run"),
        (["{program}", "--on", "cuda"], "--save FOLDER writes all that a GPU needs"),
    ],
)
def test_what_cannot_be_run_is_named(
    folder: Path,
    arguments: list[str],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(driver, "_bindings", lambda: FakeCuda(count=0))
    places = {"program": folder.parent / "program.mlir", "saved": folder, "root": tmp_path, "new": tmp_path / "new"}
    assert main(["run", *(argument.format(**places) for argument in arguments)]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_damaged_package_is_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / ARRAYS).write_bytes(b"PK but no archive")
    assert main(["run", str(tmp_path)]) == 2
    assert "is no program to run" in capsys.readouterr().err


def test_bits_are_the_numbers_that_they_stand_for() -> None:
    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(numbers(codes, "f8e4m3"), codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32))
    words = np.arange(0, 1 << 16, 7, dtype=np.uint16)
    np.testing.assert_array_equal(numbers(words, "bf16"), words.view(BF16).astype(np.float32))


CHAIN = """
func.func @step(%x: tensor<?x8xf32, #wl.dims<["T", 8]>> {wl.name = "x"})
    -> (tensor<?x8xf32, #wl.dims<["T", 8]>> {wl.name = "y"}) attributes {wl.dims = {T = array<i64: 1, 64, 1>}} {
  %0 = "wl.cumsum"(%x) {axis = 1 : i64} : (TYPE) -> TYPE
  %1 = "wl.cumsum"(%0) {axis = 1 : i64} : (TYPE) -> TYPE
  return %1 : TYPE
}
""".replace("TYPE", 'tensor<?x8xf32, #wl.dims<["T", 8]>>')


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups, the second of which reads what the first makes."""
    root = tmp_path_factory.mktemp("chain")
    (root / "program.mlir").write_text(CHAIN)
    arguments = [str(root / "program.mlir"), "--on", "cuda:sm_90", "--dims", "T=5", "--save", str(root / "saved")]
    assert main(["run", *arguments]) == 0
    return root / "saved"


def summing_gpu(folder: Path, errors: Sequence[float]) -> FakeCuda:
    """A GPU whose launches are off by a factor each."""
    left = list(errors)

    def kernel(grid: tuple[int, ...], x: int, out: int, tokens: int) -> None:
        made = np.cumsum(array_at(x, np.float32, (tokens, 8)), 1) * np.float32(1 + left.pop(0))
        array_at(out, np.float32, (tokens, 8))[...] = made

    plan = read_package(folder)[0].plan
    kernels: dict[str, tuple[Kernel, list[str]]] = {}
    for name, info in plan.kernels.items():
        assert info.cuda is not None
        kinds = ["i32" if type(param).__name__ == "DimParam" else "pointer" for param in info.cuda.params]
        kernels[name] = (kernel, kinds)
    return FakeCuda(kernels)


@pytest.mark.parametrize(
    ("errors", "agrees"),
    [([0.0, 0.0], True), ([0.02, 0.02], True), ([0.02, 0.05], False), ([0.05, 0.0], False)],
    ids=["right", "small ones add up", "the second is wrong", "the first is wrong"],
)
def test_kernels_are_compared_on_what_the_interpreter_computed(
    errors: list[float],
    agrees: bool,
    chain: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """0.02 twice is 0.04 at the end, more than the 0.03 that each kernel is held to."""
    monkeypatch.setattr(driver, "_bindings", lambda: summing_gpu(chain, errors))
    assert main(["run", str(chain)]) == (0 if agrees else 2)
    by_kernel = "2 values of groups of kernels" in capsys.readouterr().out
    assert by_kernel == (sum(errors) > 0.03)
    rows = run_steps(chain, 0.03, api=summing_gpu(chain, errors))
    assert [row.value for row in rows] == ["%0.0", "y"]
    np.testing.assert_allclose([row.difference for row in rows], errors, atol=1e-5)


NORMED = """
func.func private @group(%x: TYPE {wl.name = "0"}, %g: tensor<64xbf16> {wl.name = "1"})
    -> (CODES {wl.name = "0"}, SCALES {wl.name = "1"}) attributes {wl.dims = {T = array<i64: 1, 4096, 1>}} {
  %0 = "wl.rms_norm"(%x, %g) {eps = 1.0e-05 : f64} : (TYPE, tensor<64xbf16>) -> TYPE
  %1:2 = "wl.quantize"(%0) {dtype = "f8e4m3", group = 0 : i64, scale_dtype = "f32"} : (TYPE) -> (CODES, SCALES)
  return %1#0, %1#1 : CODES, SCALES
}
func.func @step(%x: TYPE {wl.name = "x"}) -> (CODES {wl.name = "q"}, SCALES {wl.name = "scale"})
    attributes {wl.dims = {T = array<i64: 1, 4096, 1>}} {
  %g = "wl.param"() {name = "g", shape = [64], dtype = "bf16"} : () -> tensor<64xbf16>
  %1:2 = call @group(%x, %g) : (TYPE, tensor<64xbf16>) -> (CODES, SCALES)
  return %1#0, %1#1 : CODES, SCALES
}
"""
for word, written in {"TYPE": "64xbf16", "CODES": "64xf8E4M3FN", "SCALES": "1xf32"}.items():
    NORMED = NORMED.replace(word, f'tensor<?x{written}, #wl.dims<["T", {written.partition("x")[0]}]>>')


@pytest.mark.usefixtures("wl")
def test_near_ties_of_roundings_are_the_numbers_that_the_last_bits_of_a_norm_decide() -> None:
    """Of 4096 rows of 64 a few; each is a step of E4M3 at most, and nothing else may be apart."""
    x = np.random.default_rng(0).standard_normal((4096, 64)).astype(BF16)
    gain = np.random.default_rng(1).uniform(0.5, 1.5, 64).astype(BF16)
    found = step_values(parse(NORMED), "step", {"x": x}, {"g": gain})
    assert [(step.name, step.position) for step in found.steps] == [("q", 0), ("scale", 0)]
    wide = x.astype(np.float64)
    exact = wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-5) * gain.astype(np.float64)
    low, high = ((exact * (1 + error)).astype(np.float32).astype(BF16) for error in (-(2**-20), 2**-20))
    moved = (low != high).any(1)  # rows one of whose normed numbers is near the middle of two of bf16
    assert moved.any()
    slack = found.slack["q"]
    assert not slack[~moved].any()
    assert 0 < (slack > 0).sum() < slack.size // 100
    assert (slack <= np.abs(found.values["q"].astype(np.float32)) / 8 + 2**-9).all()
