"""huggingface_hub's progress reports, which it makes through tqdm, drawn as one rich display."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.utils.tqdm import tqdm
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def hub_progress() -> Iterator[type[tqdm]]:
    """A tqdm class whose bars are rows of a rich display on stderr; nothing is drawn unless stderr is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        yield _bar_class(progress)


def _bar_class(progress: Progress) -> type[tqdm]:
    class Bar(tqdm):
        """A bar that only huggingface_hub updates and only rich draws."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.task = progress.add_task(str(kwargs.get("desc", "")), total=kwargs.get("total"))
            # `gui` keeps tqdm from writing to the terminal itself.
            super().__init__(*args, **(kwargs | {"gui": True, "disable": False}))  # type: ignore[no-untyped-call]

        def display(self, *args: Any, **kwargs: Any) -> None:
            """Called by tqdm whenever its own drawing is due."""
            progress.update(self.task, completed=self.n, total=self.total or None, description=str(self.desc))

        def close(self) -> None:
            """Draw the last state."""
            self.display()
            super().close()

    return Bar
