"""Compiled kernels on disk, by the hash of everything that they depend on.

So an entry is never stale and may be shared by users and versions. They lie in `$XDG_CACHE_HOME/warploom/cuda`
(`~/.cache` without).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from warploom.codegen.cuda.workers import Answer

_READ = {"cubin", "ptx", "ttir", "resources", "tensormaps"}  # of an answer, when the kernel is taken from the cache


def _path(key: str) -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "warploom" / "cuda" / key[:2] / f"{key}.json"


def read_entry(key: str) -> Answer | None:
    """A cache entry; one that cannot be read is none."""
    try:
        entry: Answer = json.loads(_path(key).read_text())
    except (OSError, ValueError):
        return None
    return entry if isinstance(entry, dict) and entry.keys() >= _READ else None


def write_entry(key: str, answer: Answer) -> None:
    """Add a cache entry, whole or not at all."""
    path = _path(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(answer))
    partial.replace(path)
