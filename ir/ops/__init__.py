"""All ops of the dialect. Importing this package fills the registry `warploom.ir.op.OPS`.

To add an op: write its class in the file of its family, or a file of its own, and the instance below it.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module


def import_all() -> None:
    """Import every file of this package; those of plugins are on its path too."""
    for found in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{found.name}")


import_all()
