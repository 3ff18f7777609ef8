"""From logits to tokens, on the device: penalties, temperature, truncation and a counter-based draw."""

from __future__ import annotations

from typing import Any

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.dims import Shape
from warploom.ir.op import Attribute, Chooser, Op, Operand
from warploom.ir.ops.elementwise import (
    add,
    bit_and,
    cast,
    compare,
    div,
    exp,
    log,
    maximum,
    minimum,
    mul,
    neg,
    select,
    shr,
    sub,
)
from warploom.ir.ops.norm import along_rows, softmax
from warploom.ir.ops.random import random_bits
from warploom.ir.ops.reduce import argmax, cumsum, reduce_max, reduce_min, reduce_sum, sort, top_k
from warploom.ir.ops.shape import full, gather, iota, pad, reshape, scatter, transpose
from warploom.ir.types import DType, TensorType, tensor, type_of

F32, I32 = frozenset({DType.F32}), frozenset({DType.I32})
BELOW_ONE = 1 - 2.0**-24  # 24 set bits would round to 1 in f32, whose noise is infinite
LOWEST = -3e38  # stands for a removed token: below every logit, yet finite
BANNED = -1e30  # becomes the logit of a banned token: below every logit, and finite whatever the temperature
Generated = tuple[list[mlir.Value], dict[str, AttrValue]]


class Sample(Op):
    """One token per row, and its log-probability under the unprocessed logits.

    In order, in f32: biases are added; penalties (repetition: Keskar et al. 2019; presence and frequency: OpenAI) are
    applied to `penalty_tokens`; token t is banned if bit t % 32 of word t // 32 of `banned_bits` is set (words that
    are not there ban nothing), and while another is not banned it is never chosen; temperature 0 takes the first
    maximum; else x /= temperature, and a token is kept if fewer than top_k tokens are strictly greater, the kept
    tokens strictly greater have probability below top_p in sum (top_p >= 1: always), and its own is at least min_p of
    the largest; the draw is the argmax of x + Gumbel noise over the kept, the noise keyed by (seed, position, token)
    so that it never depends on the batch. Ties are kept or removed together.
    """

    name = "sample"
    operands = (
        Operand("logits", F32),
        Operand("temperature", F32),
        Operand("top_k", I32),
        Operand("top_p", F32),
        Operand("min_p", F32),
        Operand("repetition_penalty", F32),
        Operand("presence_penalty", F32),
        Operand("frequency_penalty", F32),
        Operand("seeds", I32),
        Operand("sample_positions", I32),
        Operand("penalty_tokens", I32),
        Operand("penalty_counts", I32),
        Operand("bias_tokens", I32),
        Operand("bias_values", F32),
        Operand("banned_bits", I32),
    )
    results = ("tokens", "logprobs")

    def infer(self, logits: TensorType, *others: TensorType) -> tuple[TensorType, TensorType]:
        """i32 [R] and f32 [R] from logits [R, V]; see the contract of `@sample` for the rest."""
        if logits.rank != 2 or not isinstance(logits.shape[1], int):
            raise IRError("logits must be [R, a static vocabulary]", found=str(logits))
        rows = logits.shape[0]
        shapes = [(rows,)] * 7 + [(rows, 2), (rows,)]
        history, biases, words = others[9].shape, others[11].shape, others[13].shape
        wanted: list[Shape] = [
            *shapes, (rows, *history[1:]), history, (rows, *biases[1:]), biases, (rows, *words[1:]),
        ]  # fmt: skip
        for operand, given, shape in zip(self.operands[1:], others, wanted, strict=True):
            if not given.matches(given.with_shape(shape)):
                raise IRError(
                    f"{operand.name} has the wrong shape",
                    expected=str(given.with_shape(shape)),
                    found=str(given),
                )
        return tensor((rows,), DType.I32), tensor((rows,), DType.F32)

    def evaluate(self, logits: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row by row."""
        tokens = np.array([_sample_row(logits[r], *(o[r] for o in others)) for r in range(len(logits))], np.int32)
        shifted = logits - logits.max(-1, keepdims=True)
        logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        return tokens, logprobs[np.arange(len(tokens)), tokens]

    def decompose(self, logits: mlir.Value, *others: mlir.Value) -> tuple[mlir.Value, mlir.Value]:
        """The docstring's steps, one function each; thresholds come from a sort."""
        temperature, k, p, floor, repetition, presence, frequency, seeds, positions, *sparse = others
        penalty_tokens, penalty_counts, bias_tokens, bias_values, banned_bits = sparse
        x = _add_biases(logits, bias_tokens, bias_values)
        x = _penalize(x, penalty_tokens, penalty_counts, (repetition, presence, frequency))
        x = _ban(x, banned_bits)
        greedy = argmax(x)
        is_greedy = compare(temperature, _like(temperature, 0.0), direction="eq")
        x = div(x, along_rows(select(is_greedy, _like(temperature, 1.0), temperature), x))
        kept = _kept(x, k, p, floor)
        drawn = argmax(select(kept, add(x, _gumbel(x, seeds, positions)), _like(x, LOWEST)))
        tokens = select(is_greedy, greedy, drawn)
        return tokens, _at(_log_softmax(logits), tokens)

    def generate(self, choose: Chooser) -> Generated:
        """A small vocabulary and every kind of row."""
        rows, vocab = choose.symbol(), choose.choice([5, 40])
        floats = [
            (0.0, 0.0) if choose.integer(0, 1) else (0.5, 1.5),
            (1.0, 1.0) if choose.integer(0, 1) else (0.3, 1.0),
            (0.0, 0.3),
            (0.8, 1.5),
            (0, 1),
            (0, 1),
        ]
        temperature, p, floor, *penalties = (choose.input(tensor((rows,)), *bounds) for bounds in floats)
        k = choose.input(tensor((rows,), DType.I32), 0, 6)
        seeds = choose.input(tensor((rows, 2), DType.I32), -(2**31), 2**31 - 1)
        positions = choose.input(tensor((rows,), DType.I32), 0, 9999)
        history = [choose.input(tensor((rows, 1), DType.I32), *b) for b in ((-1, vocab - 1), (0, 3), (-1, vocab - 1))]
        bias = choose.input(tensor((rows, 1)), -2, 2)
        banned = choose.input(tensor((rows, choose.choice([1, 2])), DType.I32), -(2**31), 2**31 - 1)
        logits = choose.like(tensor((rows, vocab)))
        return [logits, temperature, k, p, floor, *penalties, seeds, positions, *history, bias, banned], {}


class TopLogprobs(Op):
    """The k most likely tokens of each row with their log-probabilities, descending; lowest index first in ties."""

    name = "top_logprobs"
    operands = (Operand("logits", F32),)
    attributes = (Attribute("k", Kind.INT),)
    results = ("top_tokens", "top_logprobs")

    def infer(self, logits: TensorType, *, k: int) -> tuple[TensorType, TensorType]:
        """i32 [R, k] and f32 [R, k] from logits [R, V]."""
        if logits.rank != 2 or not isinstance(logits.shape[1], int) or not 1 <= k <= logits.shape[1]:
            raise IRError("k must be within a static vocabulary", found=f"k={k} of {logits}")
        return tensor((logits.shape[0], k), DType.I32), tensor((logits.shape[0], k), DType.F32)

    def evaluate(self, logits: np.ndarray, *, k: int) -> tuple[np.ndarray, np.ndarray]:
        """A stable sort."""
        shifted = logits - logits.max(-1, keepdims=True)
        logprobs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        order = np.argsort(-logits, axis=-1, kind="stable")[:, :k]
        return order.astype(np.int32), np.take_along_axis(logprobs, order, -1)

    def decompose(self, logits: mlir.Value, *, k: int) -> tuple[mlir.Value, mlir.Value]:
        """top_k of the logits, shifted by the log of the sum of exponentials."""
        values, indices = top_k(logits, k=k)
        return indices, sub(values, along_rows(_log_sum_exp(logits), values))

    def generate(self, choose: Chooser) -> Generated:
        """A small vocabulary."""
        return [choose.like(tensor((choose.symbol(), choose.choice([5, 40]))))], {"k": choose.integer(1, 5)}


def _sample_row(logits: np.ndarray, *row: Any) -> int:
    temperature, k, p, floor, repetition, presence, frequency, seed, position, *sparse = row
    penalty_tokens, penalty_counts, bias_tokens, bias_values, banned_bits = sparse
    x = logits.copy()
    x[bias_tokens[bias_tokens >= 0]] += bias_values[bias_tokens >= 0]
    ids, counts = penalty_tokens[penalty_tokens >= 0], penalty_counts[penalty_tokens >= 0].astype(x.dtype)
    x[ids] = np.where(x[ids] > 0, x[ids] / repetition, x[ids] * repetition)
    x[ids] -= presence * (counts > 0) + frequency * counts
    banned = np.unpackbits(banned_bits.astype("<i4").view(np.uint8), bitorder="little")[: x.size].astype(bool)
    x[: banned.size][banned] = np.minimum(x[: banned.size][banned], BANNED)
    if temperature == 0:
        return int(x.argmax())
    x = x / temperature
    kept = x >= np.sort(x)[::-1][min(k, x.size) - 1] if k > 0 else np.ones(x.size, bool)
    weights = np.where(kept, np.exp(x - x.max()), 0)
    probabilities = weights / weights.sum(dtype=x.dtype)
    ordered = np.sort(probabilities)[::-1]
    before = np.cumsum(ordered, dtype=x.dtype) - ordered
    if p < 1:
        kept &= probabilities >= ordered[before < p].min(initial=ordered[0])
    kept &= probabilities >= floor * ordered[0]
    bits = random_bits.evaluate(seed[None], np.array([position], np.int32), n=x.size)
    assert isinstance(bits, np.ndarray)
    uniform = ((bits[0].view(np.uint32) >> 8).astype(x.dtype) + x.dtype.type(0.5)) * x.dtype.type(2**-24)
    uniform = np.minimum(uniform, x.dtype.type(BELOW_ONE))
    return int(np.where(kept, x - np.log(-np.log(uniform)), LOWEST).argmax())


def _like(x: mlir.Value, value: float) -> mlir.Value:
    return full(shape=type_of(x).shape, value=value, dtype=type_of(x).dtype.value)


def _flat_index(tokens: mlir.Value, vocab: int) -> mlir.Value:
    """Positions in flattened [R * V] of tokens [R, M], -1 where the token is; flattened to [R * M]."""
    shape = type_of(tokens).shape
    base = mul(iota(shape=shape, axis=0), full(shape=shape, value=float(vocab), dtype="i32"))
    used = compare(tokens, _like(tokens, 0), direction="ge")
    index = select(used, add(base, tokens), _like(tokens, -1))
    return reshape(index, shape=(shape[0] * shape[1],))


def _update(x: mlir.Value, tokens: mlir.Value, change: Any) -> mlir.Value:
    """x [R, V] with the entries of tokens [R, M] replaced by change(entries [R, M])."""
    rows, vocab = type_of(x).shape
    assert isinstance(vocab, int)
    flat, index = reshape(x, shape=(rows * vocab,)), _flat_index(tokens, vocab)
    current = reshape(gather(flat, index), shape=type_of(tokens).shape)
    new = reshape(change(current), shape=type_of(index).shape)
    return reshape(scatter(flat, index, new), shape=(rows, vocab))


def _add_biases(x: mlir.Value, tokens: mlir.Value, values: mlir.Value) -> mlir.Value:
    return _update(x, tokens, lambda current: add(current, values))


def _penalize(x: mlir.Value, tokens: mlir.Value, counts: mlir.Value, penalties: tuple[mlir.Value, ...]) -> mlir.Value:
    def change(current: mlir.Value) -> mlir.Value:
        repetition, presence, frequency = (along_rows(p, current) for p in penalties)
        positive = compare(current, _like(current, 0.0), direction="gt")
        repeated = select(positive, div(current, repetition), mul(current, repetition))
        number = cast(counts, dtype="f32")
        seen = cast(compare(counts, _like(counts, 0), direction="gt"), dtype="f32")
        return sub(repeated, add(mul(presence, seen), mul(frequency, number)))

    return _update(x, tokens, change)


def _ban(x: mlir.Value, words: mlir.Value) -> mlir.Value:
    """x [R, V] lowered where the bit of words [R, M] is set; a word of zeros behind them stands for all others."""
    rows, vocab = type_of(x).shape
    assert isinstance(vocab, int)
    by_word = transpose(pad(words, axis=1, low=0, high=1, value=0.0), permutation=(1, 0))
    token = iota(shape=(vocab,), axis=0)
    word_of_token = transpose(gather(by_word, shr(token, _like(token, 5))), permutation=(1, 0))
    place = bit_and(iota(shape=(rows, vocab), axis=1), _like(word_of_token, 31))
    bit = bit_and(shr(word_of_token, place), _like(place, 1))
    return select(compare(bit, _like(place, 1), direction="eq"), minimum(x, _like(x, BANNED)), x)


def _kept(x: mlir.Value, k: mlir.Value, p: mlir.Value, floor: mlir.Value) -> mlir.Value:
    vocab = type_of(x).shape[1]
    assert isinstance(vocab, int)
    off = compare(k, _like(k, 0), direction="le")
    rank = select(off, _like(k, float(vocab)), k)
    over = compare(rank, _like(k, float(vocab)), direction="gt")
    rank = sub(select(over, _like(k, float(vocab)), rank), _like(k, 1))
    kth = _at(sort(x), rank)
    within_k = compare(x, along_rows(kth, x), direction="ge")
    probabilities = softmax(select(within_k, x, _like(x, LOWEST)))
    ordered = sort(probabilities)
    before = sub(cumsum(ordered), ordered)
    limit = select(compare(p, _like(p, 1.0), direction="ge"), _like(p, 2.0), p)  # 1 is off, whatever sums round to
    in_mass = compare(before, along_rows(limit, x), direction="lt")
    largest = reduce_max(probabilities, axis=1)
    threshold = reduce_min(select(in_mass, ordered, along_rows(largest, x)), axis=1)
    threshold = maximum(threshold, mul(floor, largest))
    return bit_and(within_k, compare(probabilities, along_rows(threshold, x), direction="ge"))


def _gumbel(x: mlir.Value, seeds: mlir.Value, positions: mlir.Value) -> mlir.Value:
    vocab = type_of(x).shape[1]
    assert isinstance(vocab, int)
    bits = random_bits(seeds, positions, n=vocab)
    top = cast(shr(bits, _like(bits, 8)), dtype="f32")
    uniform = minimum(mul(add(top, _like(top, 0.5)), _like(top, 2.0**-24)), _like(top, BELOW_ONE))
    return neg(log(neg(log(uniform))))


def _at(x: mlir.Value, index: mlir.Value) -> mlir.Value:
    """x[r, index[r]] for x [R, V]."""
    rows, vocab = type_of(x).shape
    assert isinstance(vocab, int)
    column: mlir.Value = reshape(index, shape=(rows, 1))
    return gather(reshape(x, shape=(rows * vocab,)), _flat_index(column, vocab))


def _log_sum_exp(x: mlir.Value) -> mlir.Value:
    peak = reduce_max(x, axis=1)
    return add(log(reduce_sum(exp(sub(x, along_rows(peak, x))), axis=1)), peak)


def _log_softmax(x: mlir.Value) -> mlir.Value:
    return sub(x, along_rows(_log_sum_exp(x), x))


sample, top_logprobs = Sample(), TopLogprobs()
