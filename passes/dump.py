"""`WARPLOOM_DUMP=dir`: the program before the first pass and after every pass that changed it, in numbered files.

Stages appear as they are made, so that they are there when a pass fails; what it left is `NN-name.failed.mlir`. Every
stage is a program that `warploom opt` and `warploom run` read. A pipeline that finds the stages of another in `dir`,
of this process or one before, goes to `dir/run-2`, ...
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import mlir.ir as mlir

from warploom.ir.context import print_module

VARIABLE = "WARPLOOM_DUMP"
_FIRST = "00-input.mlir"  # whoever makes it has the folder


class Dump:
    """Where the stages of one pipeline go; nowhere unless the variable is set."""

    def __init__(self) -> None:
        """Make the folder."""
        self._folder: Path | None = None
        self._previous = ""
        if root := os.environ.get(VARIABLE):
            self._folder = next(folder for folder in _folders(Path(root)) if _take(folder))

    def keep(self, number: int, name: str, module: mlir.Module) -> None:
        """Write a stage, if it differs from the one before."""
        if self._folder is None:
            return
        text = print_module(module)
        if text != self._previous:
            (self._folder / f"{number:02}-{name}.mlir").write_text(text)
        self._previous = text

    @property
    def hint(self) -> str:
        """Where to look when a pass fails."""
        return f"see the stages in {self._folder}" if self._folder else f"set {VARIABLE}=dir to keep every stage"


def _folders(root: Path) -> Iterator[Path]:
    return (root if number == 1 else root / f"run-{number}" for number in count(1))


def _take(folder: Path) -> bool:
    """Whether it is ours, and not that of another pipeline."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / _FIRST).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
