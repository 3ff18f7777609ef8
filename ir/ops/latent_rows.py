"""Latent rows as a cache holds them: of each token a latent, then a rotated key; see `latent_attention.py`.

A cache of f32 or bf16 holds pages [page_size, width] of their numbers. One of 8 bits puts runs of a row on powers of
two of their own, found as the row is written: the latent by 128 numbers where that divides it, as a whole elsewhere,
and the rotated key. The powers follow the numbers of a page, [runs, page_size]: in i8 their exponents, as in
`int8_rows.py`; in f8 the powers themselves, from 2^-9 to 2^7, which E4M3 holds exactly. Numbers of i8 then reach from
64 to 127, those of f8 from 128 to 256 where the power is not at an end. DeepSeek's own kernels (FlashMLA) scale 128
numbers of a latent together too.
"""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.dims import DimLike, equal
from warploom.ir.ops import int8_rows
from warploom.ir.ops.elementwise import cast
from warploom.ir.ops.paged_cache import token_index
from warploom.ir.ops.shape import concat, gather, reshape, scatter, slice_axis, transpose
from warploom.ir.types import DType, TensorType, type_of

RUN = 128
SPARE = 7  # of the exponent of the largest number of f8: a float loses nothing by room above it
LOWEST, HIGHEST = -9, 7  # exponents of powers in f8: what a row stands for is then exact in f16 too
F8_MAX = 448.0
NARROW = frozenset({DType.F8, DType.I8})


def runs_of(latent: int, rotated: int, dtype: DType) -> tuple[int, ...]:
    """Numbers of each run of a row, in order; none where numbers are as they are."""
    if dtype not in NARROW:
        return ()
    return (*([RUN] * (latent // RUN) if latent % RUN == 0 else [latent]), rotated)


def row_size(latent: DimLike, rotated: DimLike, dtype: DType) -> DimLike:
    """Numbers of a token in the cache, with its powers."""
    if dtype not in NARROW:
        return latent + rotated
    assert isinstance(latent, int)
    assert isinstance(rotated, int)
    return latent + rotated + len(runs_of(latent, rotated, dtype))


def check_latent_cache(kv: TensorType, layer: int, latent: DimLike, rotated: DimLike, page_size: int) -> None:
    """A cache without this layer, or of rows of other sizes, is an IRError."""
    fits = kv.rank == 5 and isinstance(kv.shape[0], int) and 0 <= layer < kv.shape[0] and kv.shape[2:4] == (1, 1)
    block = page_size * row_size(latent, rotated, kv.dtype)
    if not fits or not equal(kv.shape[4], block):
        expected = f"[layers, C, 1, 1, {block}]"
        raise IRError(f"kv holds no latent rows for layer {layer}", expected=expected, found=str(kv))


def write_rows(
    kv: np.ndarray, layer: int, latent: np.ndarray, rope_key: np.ndarray, slots: np.ndarray, page_size: int
) -> None:
    """Assign the rows of tokens, latent [T, L] and rope_key [T, R], whose slots are not negative."""
    kept = slots >= 0
    rows, page, offset = np.concatenate([latent, rope_key], 1)[kept], slots[kept] // page_size, slots[kept] % page_size
    numbers, powers = _view(kv, layer, rows.shape[1], page_size)
    first = 0
    for run, size in enumerate(_runs(kv, latent.shape[1], rope_key.shape[1])):
        columns = slice(first, first + size)
        rows[:, columns], powers[page, run, offset] = _rounded(rows[:, columns], kv.dtype)
        first += size
    numbers[page, offset] = rows


def read_rows(
    kv: np.ndarray, layer: int, latent: int, rotated: int, pages: np.ndarray, page_size: int, dtype: np.dtype
) -> np.ndarray:
    """What the rows of some pages stand for, [P * page_size, L + R]."""
    numbers, powers = _view(kv, layer, latent + rotated, page_size)
    rows = numbers[pages].reshape(-1, latent + rotated).astype(dtype)
    first = 0
    for run, size in enumerate(_runs(kv, latent, rotated)):
        each = powers[pages, run].reshape(-1, 1)
        scale = np.ldexp(1.0, each.astype(np.int32)) if kv.dtype == np.int8 else each
        rows[:, first : first + size] *= scale.astype(dtype)
        first += size
    return rows


def core_written(
    kv: mlir.Value, layer: int, latent: mlir.Value, rope_key: mlir.Value, slots: mlir.Value, page_size: int
) -> mlir.Value:
    """A layer [1, C, 1, 1, block] with rows written to it, in core ops."""
    count, block = type_of(kv).shape[1], type_of(kv).shape[4]
    dtype, parts = type_of(kv).dtype, [latent, rope_key]
    (tokens, size), rotated = type_of(latent).shape, type_of(rope_key).shape[1]
    assert isinstance(size, int)
    assert isinstance(rotated, int)
    old, powers = _core_view(kv, layer, size + rotated, page_size)
    marks = []
    if powers is not None:
        runs = runs_of(size, rotated, dtype)
        rounded = [int8_rows.core_rounded(x) for x in _cut(parts, runs)]
        parts, marks = [numbers for numbers, _ in rounded], [exponents for _, exponents in rounded]
    written = scatter(old, slots, cast(concat(*parts, axis=1), dtype=dtype.value))
    if powers is None:
        return reshape(written, shape=(1, count, 1, 1, block))
    columns = concat(*(reshape(mark, shape=(tokens, 1)) for mark in marks), axis=1)
    side = reshape(scatter(powers, slots, columns), shape=(count, page_size, len(marks)))
    by_run = reshape(transpose(side, permutation=(0, 2, 1)), shape=(count, page_size * len(marks)))
    numbers = reshape(written, shape=(count, page_size * (size + rotated)))
    return reshape(concat(numbers, by_run, axis=1), shape=(1, count, 1, 1, block))


def core_rows(kv: mlir.Value, pages: mlir.Value, layer: int, latent: int, rotated: int, page_size: int) -> mlir.Value:
    """What the rows of page lists [T, P] stand for, f32 [T, P * page_size, L + R], in core ops."""
    numbers, powers = _core_view(kv, layer, latent + rotated, page_size)
    flat, (tokens, count) = token_index(pages, page_size), type_of(pages).shape
    if powers is None:
        rows = cast(gather(numbers, flat), dtype="f32")
    else:
        runs = runs_of(latent, rotated, type_of(kv).dtype)
        marks = [reshape(x, shape=type_of(flat).shape) for x in _cut([gather(powers, flat)], (1,) * len(runs))]
        each = zip(_cut([gather(numbers, flat)], runs), marks, strict=True)
        rows = concat(*(int8_rows.core_values(q, exponents) for q, exponents in each), axis=1)
    result: mlir.Value = reshape(rows, shape=(tokens, count * page_size, latent + rotated))
    return result


def _runs(kv: np.ndarray, latent: int, rotated: int) -> tuple[int, ...]:
    """Of a cache, whose wide numbers may be f64 (in tests)."""
    return runs_of(latent, rotated, DType.of(kv)) if kv.dtype.itemsize == 1 else ()


def _view(kv: np.ndarray, layer: int, width: int, page_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Of a layer, writable: numbers [C, page_size, width] and powers [C, runs, page_size]."""
    pages, count = kv[layer, :, 0, 0], kv.shape[1]
    numbers, powers = pages[:, : page_size * width], pages[:, page_size * width :]
    return numbers.reshape(count, page_size, width), powers.reshape(count, -1, page_size)


def _rounded(x: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Numbers [T, D] and powers [T] of one run."""
    if dtype == np.int8:
        return int8_rows.rounded(x)
    peak = np.abs(x).max(-1).astype(np.float32).view(np.int32)
    exponent = np.clip((peak >> int8_rows.MANTISSA_BITS) - (int8_rows.BIAS + SPARE), LOWEST, HIGHEST)
    q = np.clip(np.ldexp(x, -exponent[:, None]), -F8_MAX, F8_MAX)
    return q.astype(dtype), np.ldexp(1.0, exponent).astype(dtype)


def _core_view(kv: mlir.Value, layer: int, width: int, page_size: int) -> tuple[mlir.Value, mlir.Value | None]:
    """Of a layer: numbers [C * page_size, width] and powers [C * page_size, runs], if there are some."""
    _, count, _, _, block = type_of(kv).shape
    assert isinstance(block, int)
    pages = reshape(slice_axis(kv, axis=0, start=layer, stop=layer + 1), shape=(count, block))
    numbers = slice_axis(pages, axis=1, start=0, stop=page_size * width)
    numbers = reshape(numbers, shape=(count * page_size, width))
    runs = block // page_size - width
    if not runs:
        return numbers, None
    last = reshape(slice_axis(pages, axis=1, start=page_size * width, stop=block), shape=(count, runs, page_size))
    return numbers, reshape(transpose(last, permutation=(0, 2, 1)), shape=(count * page_size, runs))


def _cut(parts: list[mlir.Value], runs: tuple[int, ...]) -> list[mlir.Value]:
    """The runs of rows [T, ..] that are parts side by side."""
    whole, result, first = concat(*parts, axis=1) if len(parts) > 1 else parts[0], [], 0
    for size in runs:
        result.append(slice_axis(whole, axis=1, start=first, stop=first + size))
        first += size
    return result
