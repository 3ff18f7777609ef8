"""Extensions that live outside of this package: a plugin is a module that registers what it adds when it is imported.

Installed packages name theirs in the entry-point group `warploom.plugins`; others are given by name. What a plugin
can add, and how, is in docs/extending.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points

from warploom.errors import CompileError

GROUP = "warploom.plugins"


def load_plugins(modules: Sequence[str] = ()) -> None:
    """Import the plugins of installed packages, then those named.

    Raises:
        CompileError: one cannot be imported.
    """
    for name in [*(point.value for point in entry_points(group=GROUP)), *modules]:
        try:
            import_module(name)
        except ImportError as error:
            raise CompileError(
                f"the plugin {name} cannot be imported",
                expected="a module on the Python path",
                found=str(error),
                fix=f"install the package that holds {name}, or put its folder on PYTHONPATH",
            ) from error
