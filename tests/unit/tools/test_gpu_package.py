"""`warploom run --on cuda`: what is saved for a GPU machine, and how it is run there; the GPU is a fake one here."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.cuda_fake import FakeCuda, Kernel, array_at
from warploom.runtime.cuda import driver
from warploom.tools.cli import main
from warploom.tools.gpu_package import ARRAYS, numbers, read_package, run_package

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
