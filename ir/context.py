"""MLIR contexts that know the dialect."""

from __future__ import annotations

import mlir.ir as mlir
from mlir._mlir_libs import _mlir
from mlir.dialects import irdl

from warploom.errors import IRError
from warploom.ir.irdl import dialect_text

SHOWN_ERRORS = 3
_mlir.globals.append_dialect_search_prefix("warploom.ir.dialects")


def new_context() -> mlir.Context:
    """A fresh context with the `wl` dialect loaded; use it as a context manager."""
    context = mlir.Context()
    with context, mlir.Location.unknown():
        irdl.load_dialects(mlir.Module.parse(dialect_text()))
    return context


def parse(text: str) -> mlir.Module:
    """Read a program in the current context.

    Raises:
        IRError: the text does not parse or does not verify structurally.
    """
    try:
        return mlir.Module.parse(text)
    except mlir.MLIRError as error:
        raise IRError("the program does not parse", found=_first_errors(str(error))) from error


def _first_errors(text: str) -> str:
    """What MLIR says, but of many errors the first few: one cause is often reported for every layer of a model."""
    what, *errors = text.split("\nerror: ")
    left_out = [f"... and {len(errors) - SHOWN_ERRORS} more"] if len(errors) > SHOWN_ERRORS else []
    return "\n".join([what, *(f"error: {error}" for error in errors[:SHOWN_ERRORS]), *left_out])


def print_module(module: mlir.Module) -> str:
    """The program as text with locations; `parse` reads it back unchanged."""
    text: str = module.operation.get_asm(enable_debug_info=True)
    return text
