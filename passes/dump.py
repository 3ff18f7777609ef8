"""`WARPLOOM_DUMP=dir`: the program before the first pass and after every pass that changed it, in numbered files.

Stages appear as they are made, so that they are there when a pass fails; what it left is `NN-name.failed.mlir`. Every
stage is a program that `warploom opt` and `warploom run` read. Further pipelines of a process go to `dir/run-2`, ...
"""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path

import mlir.ir as mlir

from warploom.ir.context import print_module

VARIABLE = "WARPLOOM_DUMP"
_runs = count(1)


class Dump:
    """Where the stages of one pipeline go; nowhere unless the variable is set."""

    def __init__(self) -> None:
        """Make the folder."""
        self._folder: Path | None = None
        self._previous = ""
        if root := os.environ.get(VARIABLE):
            number = next(_runs)
            self._folder = Path(root) if number == 1 else Path(root) / f"run-{number}"
            self._folder.mkdir(parents=True, exist_ok=True)

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
