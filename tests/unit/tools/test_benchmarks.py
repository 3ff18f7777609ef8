"""The benchmarks run; what they measure is not judged here, save what a process imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).resolve().parents[3] / "bench"


def test_serving_imports_no_compiler(tiny_artifact: Path) -> None:
    command = [sys.executable, str(BENCH / "startup.py"), str(tiny_artifact), "--rounds", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.stderr == ""
    assert "process start to first token" in result.stdout
    assert "packages of the compiler imported: none" in result.stdout
