"""The record of fusion decisions in `wl.fusion` of an entry: what was fused, what was not and why."""

from __future__ import annotations

import mlir.ir as mlir

from warploom.ir.function import Function

LOG = "wl.fusion"


def recorded(function: Function) -> list[str]:
    """What fusion decided so far in an entry, a line each."""
    attributes = function.operation.attributes
    return [line.value for line in attributes[LOG]] if LOG in attributes else []


def record(function: Function, log: list[str]) -> None:
    """Keep the decisions with the entry, each once, where dumps and `inspect` show them."""
    function.operation.attributes[LOG] = mlir.ArrayAttr.get([mlir.StringAttr.get(line) for line in dict.fromkeys(log)])
