"""Elementary functions by range reduction and polynomials, for scalars and vectors alike; no libm, no fast-math.

Each is a few dozen f32 instructions without branches, so that LLVM keeps it in vector registers, and gives the same
bits on every ISA level. Errors quoted are the largest found against float64 over the stated range (the tests check
them). Cody-Waite reduction with FMA; polynomial coefficients from S. Moshier's Cephes (expf, logf, sinf, cosf, tanhf)
except erf's outer branch, fitted here (Chebyshev least squares of log(erfc) on [0.95, 4]).
"""

from __future__ import annotations

from collections.abc import Sequence

from warploom.codegen.cpu.values import (
    Value,
    absolute,
    bitcast,
    copysign,
    fma,
    like,
    maximum,
    minimum,
    select,
    sqrt,
)

_ROUND = 12582912.0  # 1.5 * 2^23: adding it leaves the nearest integer in the low bits of the f32
_ROUND_BITS = 0x4B400000
_INFINITY = float("inf")
_LOG_ERFC = (
    1.61503045e-6,
    -4.56107435e-5,
    5.92948282e-4,
    -4.74110782e-3,
    2.63673878e-2,
    -1.09983256e-1,
    -6.31931392e-1,
    -1.13017027,
    3.04170527e-4,
)


def polynomial(x: Value, coefficients: Sequence[float]) -> Value:
    """Horner's rule by FMA; the coefficient of the highest power first."""
    total = like(coefficients[0], x)
    for coefficient in coefficients[1:]:
        total = fma(total, x, coefficient)
    return total


def _nearest_integer(x: Value) -> tuple[Value, Value]:
    """round(x) as f32 and as i32, ties to even; needs |x| < 2^22. NaN stays NaN in the f32."""
    shifted = x + _ROUND
    return shifted - _ROUND, bitcast(shifted, "i32") - _ROUND_BITS


def _power_of_two(exponent: Value) -> Value:
    """2^exponent for i32 exponents in [-126, 127]."""
    return bitcast((exponent + 127) << 23, "f32")


def exp(x: Value) -> Value:
    """e^x, relative error <= 1.2e-7; exp(0) == 1, overflow gives inf, underflow passes through denormals to 0."""
    clamped = maximum(minimum(like(89.0, x), x), like(-104.0, x))
    x = select(x.ne(x), x, clamped)
    n, exponent = _nearest_integer(x * 1.44269504088896341)
    r = fma(n, -0.693359375, x)
    r = fma(n, 2.12194440e-4, r)
    terms = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
    power = fma(polynomial(r, terms), r * r, r) + 1.0
    half = exponent.shift_right_signed(1)  # two factors, since 2^n itself may lie outside f32's normal range
    return power * _power_of_two(half) * _power_of_two(exponent - half)


def log(x: Value) -> Value:
    """Natural logarithm, relative error <= 2e-7 away from 1 (absolute 6e-8 near it); log(0) = -inf, log(<0) = NaN."""
    tiny = x < 1.17549435e-38
    scaled = select(tiny, x * 8388608.0, x)
    bits = bitcast(scaled, "i32")
    # Mantissa in [sqrt(1/2), sqrt(2)): 0x3F3504F3 is sqrt(1/2).
    shifted = bits - 0x3F3504F3
    exponent = shifted.shift_right_signed(23)
    m = bitcast(bits - (exponent << 23), "f32") - 1.0
    e = _int_to_f32(exponent - select(tiny, like(23, exponent), like(0, exponent)))
    terms = (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
    square = m * m
    tail = fma(e, -2.12194440e-4, polynomial(m, terms) * m * square)
    result = fma(e, 0.693359375, m + fma(square, -0.5, tail))
    result = select(x.eq(_INFINITY), like(_INFINITY, x), result)
    result = select(x.eq(0.0), like(-_INFINITY, x), result)
    return select((x < 0.0) | x.ne(x), like(float("nan"), x), result)


def _int_to_f32(value: Value) -> Value:
    """An i32 of magnitude < 2^22 as f32."""
    return bitcast(value + _ROUND_BITS, "f32") - _ROUND


def sin_cos(x: Value) -> tuple[Value, Value]:
    """sin(x) and cos(x), absolute error <= 1.2e-7 for |x| <= 1e5. Meaningless beyond 2^22 and for inf."""
    n, quadrant = _nearest_integer(x * 0.63661977236758134)
    r = fma(n, -1.5707963705062866, x)  # pi/2 in three parts of 24 bits
    r = fma(n, 4.371138828673793e-08, r)
    r = fma(n, 1.7151245100058819e-15, r)
    square = r * r
    sin_terms = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
    cos_terms = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
    sine = fma(polynomial(square, sin_terms) * square, r, r)
    cosine = fma(polynomial(square, cos_terms), square * square, fma(square, -0.5, like(1.0, x)))
    swap = (quadrant & 1).ne(0)
    first, second = select(swap, cosine, sine), select(swap, sine, cosine)
    return _flip_sign(first, quadrant), _flip_sign(second, quadrant + 1)


def _flip_sign(value: Value, quadrant: Value) -> Value:
    """Negated where bit 1 of `quadrant` is set."""
    return bitcast(bitcast(value, "i32") ^ ((quadrant & 2) << 30), "f32")


def tanh(x: Value) -> Value:
    """Hyperbolic tangent, relative error <= 2.5e-7."""
    magnitude = absolute(x)
    square = x * x
    terms = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
    small = fma(polynomial(square, terms) * square, x, x)
    large = copysign(1.0 - 2.0 / (exp(magnitude * 2.0) + 1.0), x)
    return select(magnitude < 0.625, small, large)


def erf(x: Value) -> Value:
    """Error function, relative error <= 3e-7."""
    magnitude = absolute(x)
    square = x * x
    inner = (
        7.853861353153693e-5,
        -8.010193625184903e-4,
        5.188327685732524e-3,
        -2.685381193529856e-2,
        1.128358514861418e-1,
        -3.761262582423300e-1,
        1.128379165726710,
    )
    clamped = select(magnitude > 4.0, like(4.0, x), magnitude)
    outer = copysign(1.0 - exp(polynomial(clamped, _LOG_ERFC)), x)
    return select(magnitude < 1.0, polynomial(square, inner) * x, outer)


def logistic(x: Value) -> Value:
    """1 / (1 + e^-x), relative error <= 3e-7 (0 below -88)."""
    return 1.0 / (exp(-x) + 1.0)


def silu(x: Value) -> Value:
    """x * logistic(x), as x / (1 + e^-x)."""
    return x / (exp(-x) + 1.0)


def gelu_tanh(x: Value) -> Value:
    """GELU by its tanh approximation: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    inner = fma(x * x * x, 0.044715, x) * 0.7978845608028654
    return x * 0.5 * (tanh(inner) + 1.0)


def gelu(x: Value) -> Value:
    """GELU: 0.5 x (1 + erf(x / sqrt(2)))."""
    return x * 0.5 * (erf(x * 0.7071067811865476) + 1.0)


def rsqrt(x: Value) -> Value:
    """1 / sqrt(x), both correctly rounded."""
    return 1.0 / sqrt(x)
