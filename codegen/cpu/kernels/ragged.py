"""Ragged batches: which sequence holds a token."""

from __future__ import annotations

from warploom.codegen.cpu.control import carry_while
from warploom.codegen.cpu.memory import Ptr
from warploom.codegen.cpu.values import Value, constant, convert_int, select


def find_sequence(starts: Ptr, sequences: Value, token: Value) -> Value:
    """The last s < S with starts[s] <= token, by bisection: empty sequences never hold a token."""

    def halve(low: Value, high: Value) -> list[Value]:
        middle = (low + high) >> 1
        right = load_index(starts, middle) <= token
        return [select(right, middle, low), select(right, high, middle)]

    low, _ = carry_while([constant(0, "i64"), sequences], lambda low, high: low + 1 < high, halve)
    return low


def load_index(base: Ptr, offset: Value) -> Value:
    """An i32 in memory as an index."""
    return convert_int(base[offset], "i64")
