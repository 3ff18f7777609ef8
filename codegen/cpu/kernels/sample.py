"""From logits to a token, a tile per row; see `ir/ops/sample.py` for the meaning, step by step.

A row pays for what its parameters ask: plain greedy rows read the logits twice, rows with biases, penalties or a
temperature work on a copy in scratch, and each truncation is a bisection (truncation.py) of its own. Noise is drawn
only where a vector holds a token that can still win.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cpu.control import carry, carry_if, loop, when
from warploom.codegen.cpu.emitter import Kernel, Library
from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.row_folds import argmax_row, load_row, log_sum_exp_row, sum_row
from warploom.codegen.cpu.kernels.truncation import top_k_threshold, top_p_threshold
from warploom.codegen.cpu.loops.arithmetic import threefry
from warploom.codegen.cpu.math import exp, log
from warploom.codegen.cpu.memory import Ptr
from warploom.codegen.cpu.values import (
    LANES,
    Value,
    broadcast,
    constant,
    convert_int,
    intrinsic,
    iota,
    maximum,
    minimum,
    select,
    to_f32,
)
from warploom.codegen.groups import input_slot, only_op, result_slot, static
from warploom.ir.function import Function
from warploom.ir.ops.sample import BANNED, sample
from warploom.ir.types import type_of

KIND = "sample"
# Gumbel noise lies within [-2.9, 16.7] (see `_gumbel`), so a token whose weight exp(x - max) is below e^-19.6 never
# beats the likeliest one.
NEGLIGIBLE = 1e-9
BELOW_ONE = 1.0 - 2.0**-24


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """tokens i32 [R] and their raw log-probabilities f32 [R] from logits [R, vocab_size]."""

    vocab_size: int

    dims = ("R", "H", "B", "M")
    tiles = "R"

    @property
    def name(self) -> str:
        """Symbol, unique per spec."""
        return f"sample_{self.vocab_size}"

    @property
    def flops(self) -> str:
        """Of a greedy row: comparisons, and an exponential of about 20 operations per logit."""
        return f"R * {22 * self.vocab_size}"

    @property
    def bytes(self) -> str:
        """The logits once, and what the row is told of tokens."""
        return f"R * ({4 * self.vocab_size} + 8 * H + 8 * B + 4 * M)"

    @property
    def padded(self) -> int:
        """The vocabulary in whole vectors."""
        return -(-self.vocab_size // LANES) * LANES

    @property
    def scratch_bytes(self) -> int:
        """Processed logits and their weights."""
        return 2 * 4 * self.padded

    def emit(self, library: Library) -> None:
        """Operands: those of the `sample` op, then tokens and logprobs."""
        results = {"tokens": "i32", "logprobs": "f32"}
        operands = {operand.name: min(operand.dtypes).value for operand in sample.operands} | results
        with library.kernel(self.name, operands, self.dims) as k, k.tiles() as row:
            _Row(k, row, self.vocab_size, k.scratch.cast("f32"), k.scratch.cast("f32").at(self.padded)).emit()


@dataclass(frozen=True, slots=True)
class _Row:
    """One row: `x` are its processed logits, `weights` exp(x - max), both in scratch."""

    k: Kernel
    row: Value
    size: int
    x: Ptr
    weights: Ptr

    def parameter(self, name: str) -> Value:
        return self.k.operands[name][self.row]

    def emit(self) -> None:
        """Choose a token and take its log-probability from the raw logits."""
        logits, tokens = self.k.operands["logits"].at(self.row * self.size), self.k.operands["tokens"]
        raw = load_row(logits, self.size)
        peak, likeliest = argmax_row(raw, self.size)
        tokens[self.row] = likeliest
        sampled, penalized = self.parameter("temperature").ne(0.0), self.is_penalized()
        biased, banned = self.is_biased(), self.is_any_banned()
        with when(sampled | penalized | biased | banned):
            with loop(0, self.size, LANES) as i:
                self.x.store(i, raw(i))
            with when(biased):
                self.add_biases()
            with when(penalized):
                self.penalize()
            with when(banned):
                self.ban()
            with when(~sampled):
                tokens[self.row] = argmax_row(self.x.load, self.size)[1]
            with when(sampled):
                tokens[self.row] = self.draw()
        chosen = logits[convert_int(tokens[self.row], "i64")]
        self.k.operands["logprobs"][self.row] = chosen - peak - log_sum_exp_row(raw, self.size, peak)

    def is_penalized(self) -> Value:
        additive = self.parameter("presence_penalty").ne(0.0) | self.parameter("frequency_penalty").ne(0.0)
        return self.parameter("repetition_penalty").ne(1.0) | additive

    def is_biased(self) -> Value:
        tokens, width = self.listed("bias_tokens", "B")
        (found,) = carry(0, width, [constant(0, "i1")], lambda i, found: [found | (tokens[i] >= 0)])
        return found

    def is_any_banned(self) -> Value:
        words, width = self.listed("banned_bits", "M")
        (found,) = carry(0, width, [constant(0, "i1")], lambda i, found: [found | words[i].ne(0)])
        return found

    def listed(self, name: str, dim: str) -> tuple[Ptr, Value]:
        """The row of an operand [R, dim], and the dim."""
        width = self.k.dims[dim]
        return self.k.operands[name].at(self.row * width), width

    def add_biases(self) -> None:
        tokens, width = self.listed("bias_tokens", "B")
        values, _ = self.listed("bias_values", "B")
        with loop(0, width) as i, when(self.in_vocabulary(tokens[i])):
            token = convert_int(tokens[i], "i64")
            self.x[token] = self.x[token] + values[i]

    def penalize(self) -> None:
        repetition, presence, frequency = (
            self.parameter(f"{kind}_penalty") for kind in ("repetition", "presence", "frequency")
        )
        tokens, width = self.listed("penalty_tokens", "H")
        counts, _ = self.listed("penalty_counts", "H")
        with loop(0, width) as i, when(self.in_vocabulary(tokens[i])):
            token, count = convert_int(tokens[i], "i64"), counts[i]
            x = self.x[token]
            repeated = select(x > 0.0, x / repetition, x * repetition)
            self.x[token] = repeated - (select(count > 0, presence, 0.0) + frequency * to_f32(count))

    def ban(self) -> None:
        """Lower the banned tokens, a vector of them per half of a word."""
        words, width = self.listed("banned_bits", "M")
        with loop(0, minimum(width * 32, constant(self.size, "i64")), LANES) as i:
            shifts = iota() + broadcast(convert_int(i & LANES, "i32"))
            bits = (broadcast(words[i >> 5]) >> shifts) & 1
            x = self.x.load(i)
            self.x.store(i, select(bits.ne(0), minimum(x, BANNED), x))

    def in_vocabulary(self, token: Value) -> Value:
        return (token >= 0) & (token < self.size)

    def draw(self) -> Value:
        """A token among the kept, by the largest sum of logit and Gumbel noise."""
        peak, likeliest = self.apply_temperature()
        total = self.weigh(peak)
        cutoff = broadcast(self.cutoff(total))
        seeds, position = self.k.operands["seeds"].at(self.row * 2), self.parameter("sample_positions")

        def noisy(i: Value) -> Value:
            """Logits with noise; -inf where a token is not kept."""
            kept = self.weights.load(i) >= cutoff

            def add_noise(_: Value) -> list[Value]:
                indices = iota() + broadcast(convert_int(i, "i32"))
                counter = (broadcast(position), indices)
                noise = _gumbel(threefry((broadcast(seeds[0]), broadcast(seeds[1])), counter))
                return [select(kept, self.x.load(i) + noise, -float("inf"))]

            any_kept = intrinsic("llvm.vector.reduce.or.v16i1", [kept], "i1")
            return carry_if(any_kept, [constant(-float("inf"), "f32", LANES)], add_noise)[0]

        best, token = argmax_row(noisy, self.size, chains=1)
        return select(best > -float("inf"), token, likeliest)

    def apply_temperature(self) -> tuple[Value, Value]:
        """Divide; returns the largest and its index."""
        temperature = broadcast(self.parameter("temperature"))

        def divided(i: Value) -> Value:
            value = self.x.load(i) / temperature
            self.x.store(i, value)
            return value

        return argmax_row(divided, self.size)

    def weigh(self, peak: Value) -> Value:
        """Weights of the top_k tokens, 0 for others; returns their sum."""
        k = self.parameter("top_k")
        (threshold,) = carry_if(
            (k > 0) & (k < self.size),
            [constant(-float("inf"), "f32")],
            lambda _: [top_k_threshold(self.x.load, self.size, k, peak)],
        )

        def weight(i: Value) -> Value:
            x = self.x.load(i)
            value = select(x >= broadcast(threshold), exp(x - broadcast(peak)), 0.0)
            self.weights.store(i, value)
            return value

        return sum_row(weight, self.size)

    def cutoff(self, total: Value) -> Value:
        """The least weight that top_p and min_p keep; the largest weight is 1."""
        p = self.parameter("top_p")
        (threshold,) = carry_if(
            p < 1.0,
            [constant(NEGLIGIBLE, "f32")],
            lambda _: [top_p_threshold(self.weights.load, self.size, p * total)],
        )
        return maximum(maximum(threshold, self.parameter("min_p")), NEGLIGIBLE)


def _gumbel(bits: Value) -> Value:
    """Standard Gumbel noise from random bits; u = 1 (by rounding, once in 2^24) would be infinite noise."""
    uniform = minimum((to_f32(bits >> 8) + 0.5) * 2.0**-24, BELOW_ONE)
    return -log(-log(uniform))


def match(group: Function) -> Match | str:
    """The kernel of a group that is one `sample`, or why there is none."""
    operation = only_op(group, sample)
    if isinstance(operation, str):
        return operation
    values = dict(zip((operand.name for operand in sample.operands), operation.operands, strict=True))
    rows, vocab_size = type_of(values["logits"]).shape
    widths = {"H": "penalty_tokens", "B": "bias_tokens", "M": "banned_bits"}
    dims = {"R": str(rows)} | {dim: str(type_of(values[name]).shape[1]) for dim, name in widths.items()}
    operands = (
        *(input_slot(group, value) for value in values.values()),
        *(result_slot(group, value) for value in operation.results),
    )
    return Match(SampleSpec(static(vocab_size)), operands, dims)
