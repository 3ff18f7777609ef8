"""Passes and fusion rules of plugins: files that `warploom.plugins` has made visible in this package."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from types import ModuleType

from warploom import passes


def extension_modules() -> list[ModuleType]:
    """The modules of this package that lie outside of its own folder, which is the first of its path."""
    folders = list(passes.__path__)[1:]
    return [import_module(f"{passes.__name__}.{found.name}") for found in pkgutil.iter_modules(folders)]
