"""The decisions of fusion, read out of the text of an IR stage (without MLIR's bindings, which serving does not have).

Entries carry them as `wl.fusion = ["place: op: decision", ...]`; see `passes/fuse_heroes.py`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_ENTRY = re.compile(r"^  func\.func (?!private)[^@]*@(\w+)\(.*?wl\.fusion = \[(.*)$", re.MULTILINE)
_STRING = re.compile(r'\s*"((?:[^"\\]|\\.)*)"\s*,?')
_ESCAPE = re.compile(r"\\(?:([0-9A-Fa-f]{2})|(.))")
_LAYER = re.compile(r"\.\d+(?=\.)")
_GROUP = re.compile(r" as @\w+$")


@dataclass(frozen=True)
class FusionDecision:
    """What became of one op, of `times` like ones.

    Attributes:
        location: module path in the model, layer numbers as `*`.
        decision: `fused ...`, or which op stays outside of the group, or which kernel does not exist, and why.
    """

    entry: str
    location: str
    op: str
    times: int
    decision: str


def fusion_decisions(text: str) -> list[FusionDecision]:
    """Return the decisions of all entries of a stage, in their order, those of like layers counted together."""
    counts = Counter(
        (entry.group(1), *_parts(line)) for entry in _ENTRY.finditer(text) for line in _strings(entry.group(2))
    )
    return [
        FusionDecision(entry, location, op, times, decision)
        for (entry, location, op, decision), times in counts.items()
    ]


def _parts(line: str) -> tuple[str, str, str]:
    """Place, op and decision of one line of the log, without the numbers that tell like layers apart."""
    location, op, decision = line.split(": ", 2)
    return _LAYER.sub(".*", location), op, _GROUP.sub("", decision)


def _strings(text: str) -> list[str]:
    """The strings at the beginning of `text`, which follows MLIR's `[`."""
    found, position = [], 0
    while match := _STRING.match(text, position):
        found.append(_ESCAPE.sub(_unescape, match.group(1)))
        position = match.end()
    return found


def _unescape(match: re.Match[str]) -> str:
    code, character = match.groups()
    return chr(int(code, 16)) if code else str(character)
