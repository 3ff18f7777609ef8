"""Truncated sampling without a sort: thresholds by bisection over the bits of floats, which order as integers.

The sums that are compared add the same terms, or zeros in their place, in the same order, so rounding keeps them
monotone and the bisection is exact.
"""

from __future__ import annotations

from warploom.codegen.cpu.control import carry_while
from warploom.codegen.cpu.kernels.row_folds import Load, fold_row, sum_row
from warploom.codegen.cpu.values import LANES, Value, bitcast, broadcast, constant, convert_int, reduce_add, select

_LOWEST_KEY = -0x7F800001  # of -inf
_ONE_BITS = 0x3F800000


def top_k_threshold(load: Load, columns: int, k: Value, peak: Value) -> Value:
    """A value x with #{row >= x} >= k and fewer than k of the row greater than the least of those.

    Args:
        load: reads a vector of the row.
        columns: of the row.
        k: i32, from 1 to `columns`.
        peak: the row's largest value, not NaN.
    """

    def halve(low: Value, high: Value, count: Value) -> list[Value]:
        """At least k values are >= low (`count` of them), fewer than k are > high."""
        middle = high - ((high - low) >> 1)
        found = _count_at_least(load, columns, _from_key(middle))
        enough = found >= k
        return [select(enough, middle, low), select(enough, high, middle - 1), select(enough, found, count)]

    low, _, _ = carry_while(
        [constant(_LOWEST_KEY, "i64"), _key(peak), constant(columns, "i32")],
        lambda low, high, count: (low < high) & count.ne(k),
        halve,
    )
    return _from_key(low)


def top_p_threshold(load: Load, columns: int, limit: Value) -> Value:
    """The least float t in [0, 1] such that the row's values above t sum to less than `limit`; 1 if there is none.

    The row's values lie in [0, 1].
    """

    def halve(low: Value, high: Value) -> list[Value]:
        middle = (low + high) >> 1
        below = _mass_above(load, columns, bitcast(middle, "f32")) < limit
        return [select(below, low, middle + 1), select(below, middle, high)]

    _, high = carry_while([constant(0, "i32"), constant(_ONE_BITS, "i32")], lambda low, high: low < high, halve)
    return bitcast(high, "f32")


def _count_at_least(load: Load, columns: int, threshold: Value) -> Value:
    bound = broadcast(threshold)
    (counts,) = fold_row(
        columns,
        [constant(0, "i32", LANES)],
        lambda i, total: [total + select(load(i) >= bound, constant(1, "i32", LANES), 0)],
        lambda left, right: [left + right],
    )
    return reduce_add(counts)


def _mass_above(load: Load, columns: int, threshold: Value) -> Value:
    bound = broadcast(threshold)

    def above(i: Value) -> Value:
        value = load(i)
        return select(value > bound, value, 0.0)

    return sum_row(above, columns)


def _key(value: Value) -> Value:
    """The bits of an f32 as an i64 that orders as the float does."""
    bits = bitcast(value, "i32")
    return convert_int(bits ^ (bits.shift_right_signed(31) & 0x7FFFFFFF), "i64")


def _from_key(key: Value) -> Value:
    bits = convert_int(key, "i32")
    return bitcast(bits ^ (bits.shift_right_signed(31) & 0x7FFFFFFF), "f32")
