"""Extensions that live outside of this package: a plugin is a package laid out as this house.

Its folders `ir/ops`, `passes`, `frontend/models` and so on are added to the packages here of the same name, so that
whatever finds a file of ours by looking into a room finds the plugin's too. There is nothing to register.
Installed plugins name their package in the entry-point group `warploom.plugins`; others are given by name. What a
plugin can add, and how, is in docs/extending.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from warploom.errors import CompileError

GROUP = "warploom.plugins"
ROOMS = (
    "ir.ops",
    "passes",
    "passes.quantization",
    "frontend.models",
    "codegen.cpu.kernels",
    "codegen.cuda.kernels",
)


def load_plugins(packages: Sequence[str] = ()) -> None:
    """Add the plugins of installed packages, then those named, each once.

    Raises:
        CompileError: there is no such package, or it has none of the folders.
    """
    for name in [*(point.value for point in entry_points(group=GROUP)), *packages]:
        folders = _folders(name)
        for room in ROOMS:
            _extend(f"warploom.{room}", [folder.joinpath(*room.split(".")) for folder in folders])


def _folders(name: str) -> list[Path]:
    spec = find_spec(name) if name.replace(".", "").isidentifier() else None
    found = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec is not None else []
    if not any(folder.joinpath(*room.split(".")).is_dir() for folder in found for room in ROOMS):
        raise CompileError(
            f"{name} is no plugin",
            expected=f"a package on the Python path with one of the folders {', '.join(ROOMS)}".replace(".", "/"),
            found="no such package" if spec is None else ", ".join(map(str, found)) or "a module",
            fix="install the package, or put the folder that holds it on PYTHONPATH; see docs/extending.md",
        )
    return found


def _extend(package: str, folders: list[Path]) -> None:
    """Make the files of folders modules of a package; ops are defined by being imported, so they are at once."""
    missing = [str(folder) for folder in folders if folder.is_dir()]
    if not missing:
        return
    path = import_module(package).__path__
    new = [folder for folder in missing if folder not in path]
    path.extend(new)
    if new and package == "warploom.ir.ops":
        sys.modules[package].import_all()
    if new:
        _forget_what_was_found()


def _forget_what_was_found() -> None:
    """Registries remember what they found when they looked first."""
    for module, registry in (
        ("warploom.codegen.cpu.templates", "templates"),
        ("warploom.codegen.cuda.templates", "templates"),
        ("warploom.frontend.models.registry", "families"),
        ("warploom.passes.quantization.scheme", "families"),
    ):
        if module in sys.modules:
            getattr(sys.modules[module], registry).cache_clear()
