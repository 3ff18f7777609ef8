"""Programs with their expected form beside them.

Each `*.mlir` here names passes in a line `// PASSES: simplify cse`, holds a program, and says in CHECK lines (LLVM's
FileCheck) what the program looks like after these passes. To keep a counter-example, paste it into a new file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import mlir.ir as mlir
import pytest
from filecheck.matcher import Matcher
from filecheck.options import Options

from tests.targets import EAGER
from warploom.ir.context import parse
from warploom.ir.verify import verify
from warploom.passes.named import named_pass

FILES = sorted(Path(__file__).parent.glob("*.mlir"))


def passes_of(text: str) -> list[Callable[[mlir.Module], None]]:
    """The passes that a file names; those for a target get one that takes every group."""
    line = re.match(r"// PASSES: (.+)\n", text)
    assert line is not None, "the first line must be // PASSES: name name{argument=value} ..."
    return [named_pass(name, EAGER) for name in line[1].split()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_program_becomes_what_its_file_says(path: Path, wl: mlir.Context, tmp_path: Path) -> None:
    text = path.read_text()
    assert "// CHECK" in text
    module = parse(text)
    verify(module)
    for step in passes_of(text):
        step(module)
        verify(module)
    printed = tmp_path / "printed.mlir"
    printed.write_text(str(module))
    assert Matcher.from_opts(Options(str(path), str(printed))).run() == 0, printed.read_text()
