"""Rows as aligned text, and numbers as people read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import Field, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def size(num_bytes: int) -> str:
    """Return a byte count in decimal units, as disks are labelled."""
    return _scaled(num_bytes, ("B", "kB", "MB", "GB", "TB"))


def count(number: int) -> str:
    """Return a large number in units of thousands."""
    return _scaled(number, ("", "k", "M", "G", "T"))


def us(microseconds: float) -> str:
    """Return a time; nothing for 0, which is no time."""
    return f"{microseconds:.1f} us" if microseconds else ""


def _scaled(number: int, units: Sequence[str]) -> str:
    value, unit = float(number), 0
    while abs(value) >= 999.5 and unit < len(units) - 1:
        value, unit = value / 1000, unit + 1
    return f"{number} {units[0]}".strip() if unit == 0 else f"{value:.3g} {units[unit]}"


def shown(show: Callable[[Any], str]) -> Any:
    """A dataclass field that `table` prints through `show`."""
    return field(metadata={"show": show})


def table(rows: Sequence[DataclassInstance]) -> str:
    """Return rows of one dataclass under the names of its fields; numbers are set to the right."""
    if not rows:
        return "(none)"
    columns = fields(rows[0])
    header = [column.name.replace("_", " ") for column in columns]
    cells = [[_cell(row, column) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [isinstance(getattr(rows[0], column.name), int | float) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in [header, *cells]
    )


def _cell(row: DataclassInstance, column: Field[Any]) -> str:
    show = column.metadata.get("show", str)
    return str(show(getattr(row, column.name)))
