"""Memory that the kernels of a group share, by name."""

from __future__ import annotations

import math

from warploom.codegen.binding import Slot, Temp


class Temps:
    """Temps of a group whose variants need them in different sizes: each is as large as the largest that is asked for.

    What is asked for by one name is of one size or, where that is not static, of one type.
    """

    def __init__(self) -> None:
        self._known: dict[str, Temp] = {}

    def slot(self, name: str, temp: Temp) -> Slot:
        """Where memory is, as large as `temp` at least."""
        known = self._known.setdefault(name, temp)
        if known.type.is_static and known.type.resolve({}) != temp.type.resolve({}):
            self._known[name] = max(known, temp, key=lambda t: math.prod(t.type.resolve({})))
        return Slot("temp", list(self._known).index(name))

    @property
    def all(self) -> tuple[Temp, ...]:
        """In the order of their slots."""
        return tuple(self._known.values())
