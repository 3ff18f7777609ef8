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


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_called_wrongly_says_how_it_is_called(path: Path) -> None:
    """Through argparse, not an IndexError: nothing reads its arguments itself."""
    text = path.read_text()
    assert "sys.argv" not in text
    assert "arguments.parser(__doc__)" in text or "run_device import" in text  # whose main it calls


def test_without_arguments_a_script_shows_its_usage() -> None:
    command = [sys.executable, "-m", "tests.gpu.run_small"]
    run = subprocess.run(command, cwd=ROOT, check=False, timeout=120, capture_output=True, text=True)
    assert run.returncode == 2
    assert "usage:" in run.stderr
    assert "ARTIFACT" in run.stderr


def test_a_script_finds_its_imports_when_it_is_called_so() -> None:
    command = [sys.executable, "-c", "import tests.gpu.build_smollm2"]
    assert subprocess.run(command, cwd=ROOT, check=False, timeout=120).returncode == 0


@pytest.mark.parametrize("path", sorted((ROOT / "tests/gpu").glob("*.py")), ids=lambda path: path.stem)
def test_what_lies_beside_it_is_imported_by_its_whole_name(path: Path) -> None:
    """A bare name would be found by `python tests/gpu/run_x.py` and by nothing else."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert not [name for name in names if name and (path.parent / f"{name}.py").exists()]
