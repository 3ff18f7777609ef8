"""The one tolerance table: how far two computations of the same meaning may be apart.

Two correct programs differ by the order of their sums and by the rounding of `exp`. How much that moves a result
depends on the program, so generated programs are also run in double precision, and what single precision lost there
(`sensitivity`) widens the bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from warploom.ir.types import DType


@dataclass(frozen=True)
class Tolerance:
    """|actual - expected| <= absolute + relative * |expected|."""

    relative: float
    absolute: float


TOLERANCES = {
    DType.F32: Tolerance(1e-5, 1e-5),
    DType.F16: Tolerance(2e-3, 2e-3),
    DType.BF16: Tolerance(1.6e-2, 1e-2),
    DType.F8: Tolerance(0.13, 1e-2),
    DType.I1: Tolerance(0, 0),
    DType.I4: Tolerance(0, 0),
    DType.I8: Tolerance(0, 0),
    DType.I32: Tolerance(0, 0),
    DType.I64: Tolerance(0, 0),
}
SAFETY = 16  # how much worse another order of operations may be than the measured loss
DISCRETE = 1e-2  # a loss above this is no rounding but a decision that went the other way


def assert_close(actual: np.ndarray, expected: np.ndarray, dtype: DType, sensitivity: float = 0.0) -> None:
    """Compare within the table's bound for `dtype`, widened by SAFETY * sensitivity; NaN equals NaN.

    Raises:
        AssertionError: naming the worst element.
    """
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    tolerance = TOLERANCES[dtype]
    if tolerance.absolute == 0:
        np.testing.assert_array_equal(actual, expected)
        return
    bound = tolerance.absolute + SAFETY * sensitivity
    got, want = actual.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_allclose(got, want, rtol=tolerance.relative, atol=bound, equal_nan=True)


def sensitivity(single: np.ndarray, double: np.ndarray, dtype: DType) -> float | None:
    """What f32 arithmetic lost against f64: the largest absolute difference.

    None if the two disagree in kind (an integer, a boolean, a NaN, or a jump such as `floor` near an integer): then
    a decision hangs on rounding and the program says nothing about correctness.
    """
    if not dtype.is_float:
        return 0.0 if np.array_equal(single, double) else None
    wide, exact = single.astype(np.float64), double.astype(np.float64)
    if not np.array_equal(np.isfinite(wide), np.isfinite(exact)):
        return None
    finite = np.isfinite(wide)
    lost = float(np.abs(wide - exact)[finite].max(initial=0.0))
    return lost if lost <= DISCRETE * max(1.0, float(np.abs(exact)[finite].max(initial=0.0))) else None
