"""MLIR contexts that know the dialect, and programs as text.

Texts say which version of the dialect they are written in, as attribute `wl.version` of the module; those before
version 2 do not. A text of an older version is read if it still means what it meant: what attributes were added since
has defaults. A text of a newer one is refused, as what it says may not be what this version reads.

Versions: 1, until an attribute was added (`alibi`, of attention); 2, attributes that have defaults may be left out.
A change of the dialect that would misread older texts, or be misread, makes a new version.
"""

from __future__ import annotations

import re

import mlir.ir as mlir
from mlir._mlir_libs import _mlir
from mlir.dialects import irdl

from warploom.errors import IRError
from warploom.ir.irdl import dialect_text

VERSION = 2
STAMP = "wl.version"
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
        IRError: the text does not parse or does not verify structurally, or is of a newer version of the dialect.
    """
    version = version_of(text)
    if version > VERSION:
        raise IRError(
            "the program is written in a newer version of the dialect",
            expected=f"wl.version at most {VERSION}",
            found=f"version {version}",
            fix="read it with the warploom that wrote it, or a later one",
        )
    try:
        return mlir.Module.parse(text)
    except mlir.MLIRError as error:
        raise IRError(
            "the program does not parse",
            expected=f"version {VERSION} of the dialect",
            found=_first_errors(str(error)),
            fix=_advice(str(error), version),
        ) from error


def version_of(text: str) -> int:
    """The version of the dialect that a program says it is written in: 1 if it does not say."""
    found = re.search(rf"\b{re.escape(STAMP)} = (\d+)", text)
    return 1 if found is None else int(found[1])


def _advice(errors: str, version: int) -> str:
    """What to do about a text that does not parse."""
    unknown = re.search(r"unregistered operation '(wl\.\w+)'", errors)
    parts = [
        *([f"load the plugin that defines {unknown[1]}: --plugin PACKAGE"] if unknown else []),
        *([f"if an older warploom wrote it (as version {version}), compile the model again"] * (version < VERSION)),
    ]
    return "; ".join(["correct it", *parts])


def _first_errors(text: str) -> str:
    """What MLIR says, but of many errors the first few: one cause is often reported for every layer of a model."""
    what, *errors = text.split("\nerror: ")
    left_out = [f"... and {len(errors) - SHOWN_ERRORS} more"] if len(errors) > SHOWN_ERRORS else []
    return "\n".join([what, *(f"error: {error}" for error in errors[:SHOWN_ERRORS]), *left_out])


def print_module(module: mlir.Module) -> str:
    """The program as text with locations and the version of the dialect; `parse` reads it back unchanged."""
    i64 = mlir.IntegerType.get_signless(64, module.context)
    module.operation.attributes[STAMP] = mlir.IntegerAttr.get(i64, VERSION)
    text: str = module.operation.get_asm(enable_debug_info=True)
    return text
