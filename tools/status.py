"""What a long command is doing, as one line of the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Told = Callable[[int, int], None]  # how many are done, and how many there are
_ERASE = "\r\033[K"


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """Yield what shows a text on stderr in place of the one before it: nothing, unless that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    try:
        yield lambda text: print(_ERASE + text, end="", file=sys.stderr, flush=True)
    finally:
        print(_ERASE, end="", file=sys.stderr, flush=True)


def counted(show: Callable[[str], None], what: str) -> Told:
    """Return what shows `3 of 9 <what>`."""
    return lambda done, total: show(f"{done} of {total} {what}")
