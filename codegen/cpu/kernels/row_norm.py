"""RMSNorm of one row: the piece shared by the fused and the stand-alone kernels, so that both give the same bits."""

from __future__ import annotations

from warploom.codegen.cpu.control import carry, loop
from warploom.codegen.cpu.math import rsqrt
from warploom.codegen.cpu.memory import Ptr, first_lanes, lanes_of_row
from warploom.codegen.cpu.values import LANES, Value, broadcast, constant, fma, reduce_add

_CHAINS = 4  # partial sums in flight, to hide the latency of fma


def normalize_row(x: Ptr, weight: Ptr, out: Ptr, columns: int, eps: float) -> None:
    """out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i] for i < columns, all f32 (Zhang and Sennrich 2019)."""
    scale = broadcast(rsqrt(_sum_of_squares(x, columns) * (1.0 / columns) + eps))
    with loop(0, columns, LANES) as i:
        mask = lanes_of_row(i, columns)
        out.store(i, x.load(i, mask=mask) * scale * weight.load(i, mask=mask), mask=mask)


def _sum_of_squares(x: Ptr, columns: int) -> Value:
    chunk = _CHAINS * LANES
    zero = constant(0.0, "f32", LANES)

    def chunk_body(i: Value, *sums: Value) -> list[Value]:
        loaded = [x.load(i + chain * LANES) for chain in range(_CHAINS)]
        return [fma(value, value, total) for value, total in zip(loaded, sums, strict=True)]

    def tail_body(i: Value, total: Value) -> list[Value]:
        value = x.load(i, mask=first_lanes(columns - i))
        return [fma(value, value, total)]

    whole = columns // chunk * chunk
    first, second, third, fourth = carry(0, whole, [zero] * _CHAINS, chunk_body, chunk)
    (total,) = carry(whole, columns, [(first + second) + (third + fourth)], tail_body, LANES)
    return reduce_add(total)
