"""IR programs as the command line names them: a file of an artifact's `ir/`, or `-` for standard input."""

from __future__ import annotations

import sys
from pathlib import Path

import mlir.ir as mlir

from warploom.errors import IRError
from warploom.ir.context import parse
from warploom.ir.verify import verify
from warploom.runtime.manifest import MANIFEST_FILE

STDIN = "-"


def read_text(source: str) -> str:
    """Return what a file or standard input holds.

    Raises:
        IRError: there is no such file.
    """
    if source == STDIN:
        return sys.stdin.read()
    if (Path(source) / MANIFEST_FILE).is_file():
        raise IRError(
            f"{source} is an artifact, not a program",
            expected=f"one of its stages, such as {source}/ir/cpu/00-trace.mlir",
            fix=f"`warploom inspect {source} ir` lists them",
        )
    try:
        return Path(source).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise IRError(
            f"{source} cannot be read",
            expected="an .mlir file, such as those in the `ir` folder of an artifact, or - for standard input",
            found=str(error),
        ) from error


def read_program(source: str) -> mlir.Module:
    """Return the verified program of a file or of standard input, in the current context.

    Raises:
        IRError: it cannot be read, is empty, does not parse, or is malformed; the message names place and op.
    """
    text = read_text(source)
    where = "standard input" if source == STDIN else source
    if not text.strip():
        raise IRError(f"{where} is empty", expected="an IR program", fix="`warploom inspect ARTIFACT ir` lists some")
    try:
        module = parse(text)
        verify(module)
    except IRError as error:
        raise IRError(f"{where}: {error.what}", expected=error.expected, found=error.found, fix=error.fix) from error
    return module
