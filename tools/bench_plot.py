"""Where the time of steps goes, as an SVG: one bar per step, one piece per kernel, each bar as long as the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _LABEL, _BAR, _GAP, _LINE = 960, 150, 34, 22, 18
_COLOURS = (
    "#4269d0",
    "#efb118",
    "#ff725c",
    "#6cc5b0",
    "#3ca951",
    "#ff8ab7",
    "#a463f2",
    "#97bbf5",
    "#9c6b4e",
    "#9498a0",
)


def plot(steps: Mapping[str, Sequence[tuple[str, float]]]) -> str:
    """Return an SVG.

    Args:
        steps: by name: the kernels and their seconds, the longest first.
    """
    names = list(dict.fromkeys(kernel for pieces in steps.values() for kernel, _ in pieces))
    colours = {name: _COLOURS[index % len(_COLOURS)] for index, name in enumerate(names)}
    height = len(steps) * (_BAR + _GAP) + _GAP + len(names) * _LINE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    top = _GAP
    for step, pieces in steps.items():
        parts += _bar(step, pieces, top, colours)
        top += _BAR + _GAP
    for name in names:
        parts.append(f'<rect x="{_LABEL}" y="{top}" width="12" height="12" fill="{colours[name]}"/>')
        parts.append(f'<text x="{_LABEL + 18}" y="{top + 10}">{escape(name)}</text>')
        top += _LINE
    return "\n".join([*parts, "</svg>"])


def _bar(step: str, pieces: Sequence[tuple[str, float]], top: int, colours: Mapping[str, str]) -> list[str]:
    whole = sum(seconds for _, seconds in pieces)
    middle = top + _BAR // 2 + 4
    parts = [f'<text x="8" y="{middle}">{escape(step)}: {1e3 * whole:.2f} ms</text>']
    left = float(_LABEL)
    for kernel, seconds in pieces:
        width = (_WIDTH - _LABEL - 8) * seconds / whole
        title = f"<title>{escape(kernel)}: {1e6 * seconds:.1f} us</title>"
        parts.append(
            f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{colours[kernel]}" '
            f'stroke="white">{title}</rect>'
        )
        left += width
    return parts
