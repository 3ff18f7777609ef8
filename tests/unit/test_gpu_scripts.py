"""Scripts for GPU machines say how they are called, in a way that finds their imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [path for path in sorted((ROOT / "tests/gpu").glob("*.py")) if '__name__ == "__main__"' in path.read_text()]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_how_it_is_called(path: Path) -> None:
    said = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert f"python -m tests.gpu.{path.stem}" in said


def test_a_script_finds_its_imports_when_it_is_called_so() -> None:
    command = [sys.executable, "-c", "import tests.gpu.build_smollm2"]
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=120).returncode == 0
