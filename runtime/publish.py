"""Moving a finished folder into place: durable, and in one step for those who read it."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def publish(temporary: Path, path: Path) -> None:
    """Move the folder `temporary`, whose files are synced, to `path`; what was there ends at `temporary`.

    An existing folder is exchanged in one system call (renameat2(2), RENAME_EXCHANGE), so that readers see
    either the old or the new one. File systems without that call get renames.

    Raises:
        OSError: nothing has moved.
    """
    for folder in (temporary, *(child for child in temporary.rglob("*") if child.is_dir())):
        _sync(folder)
    if path.exists():
        _exchange(temporary, path)
    else:
        temporary.rename(path)
    _sync(path.parent)


def _exchange(temporary: Path, path: Path) -> None:
    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    if renameat2(_AT_FDCWD, os.fsencode(temporary), _AT_FDCWD, os.fsencode(path), _RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(code, os.strerror(code), str(path))
    old = temporary.with_suffix(".old")
    path.rename(old)
    temporary.rename(path)
    old.rename(temporary)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
