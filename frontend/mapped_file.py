"""A file mapped into memory read-only, with checks that name the file instead of faulting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from warploom.errors import CheckpointError


def map_file(path: Path) -> NDArray[np.uint8]:
    """All bytes of `path`, [size] u8, read-only, paged in on first touch.

    Raises:
        CheckpointError: the file is missing, empty or unreadable.
    """
    try:
        if path.stat().st_size == 0:
            raise truncated(path, expected_bytes=None, found_bytes=0)
        return np.memmap(path, dtype=np.uint8, mode="r")
    except FileNotFoundError as error:
        raise CheckpointError(
            f"checkpoint file {path} is missing",
            expected=f"a file at {path}",
            found=_siblings(path),
            fix="download the model again, or complete the folder",
        ) from error
    except OSError as error:
        raise CheckpointError(f"checkpoint file {path} cannot be read", found=str(error)) from error


def truncated(path: Path, *, expected_bytes: int | None, found_bytes: int) -> CheckpointError:
    """The error for a file that ends before its header says that it does."""
    return CheckpointError(
        f"checkpoint file {path} is truncated",
        expected=f"{expected_bytes} bytes" if expected_bytes is not None else "a non-empty file",
        found=f"{found_bytes} bytes",
        fix="download the file again",
    )


def _siblings(path: Path) -> str:
    if not path.parent.is_dir():
        return f"no folder {path.parent}"
    names = sorted(entry.name for entry in path.parent.iterdir())
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"a folder with {shown or 'nothing in it'}"
