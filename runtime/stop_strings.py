"""Finding stop strings in a text that arrives in pieces, without showing any part of one."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text on until a stop string appears in it.

    The result does not depend on how the text was cut into pieces: the stop string that ends first wins, and of
    those that end together the longest.

    Attributes:
        matched: the stop string found, or None.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.matched: str | None = None
        self._stops = stops
        self._held = ""

    def push(self, text: str, *, active: bool = True) -> str:
        """Return the text that is now certain to be outside any stop string.

        Args:
            active: False: a stop string that ends within `text` does not count.
        """
        if not self._stops:
            return text
        buffer = self._held + text
        if active and (match := self._find(buffer)):
            start, self.matched = match
            self._held = ""
            return buffer[:start]
        held = self._longest_start(buffer)
        self._held = buffer[len(buffer) - held :]
        return buffer[: len(buffer) - held]

    def finish(self) -> str:
        """Return the text held back, now that no more follows."""
        held, self._held = self._held, ""
        return held

    def _find(self, buffer: str) -> tuple[int, str] | None:
        """Return the start and the name of the winning match that ends after the held text."""
        found = []
        for stop in self._stops:
            start = buffer.find(stop, max(0, len(self._held) - len(stop) + 1))
            if start >= 0:
                found.append((start + len(stop), start, stop))
        if not found:
            return None
        _, start, stop = min(found)
        return start, stop

    def _longest_start(self, buffer: str) -> int:
        """Return the length of the longest suffix of `buffer` that may begin a stop string."""
        for length in range(min(len(buffer), max(map(len, self._stops)) - 1), 0, -1):
            suffix = buffer[-length:]
            if any(stop.startswith(suffix) for stop in self._stops):
                return length
        return 0
