"""The k most likely tokens of each row of logits, by k searches: k is at most 20, and a search reads the cache."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cpu.control import carry
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.row_folds import argmax_row, load_row, log_sum_exp_row
from warploom.codegen.cpu.values import Value, constant
from warploom.codegen.groups import input_slot, only_op, result_slot, static
from warploom.ir.function import Function
from warploom.ir.ops.sample import top_logprobs
from warploom.ir.types import type_of

KIND = "top_logprobs"


@dataclass(frozen=True, slots=True)
class TopLogprobsSpec:
    """top_tokens i32 and top_logprobs f32 [R, k] of logits [R, vocab_size]; descending, ties by index."""

    vocab_size: int
    k: int

    dims = ("R",)
    tiles = "R"
    scratch_bytes = 0

    @property
    def name(self) -> str:
        """Symbol, unique per spec."""
        return f"top_logprobs_{self.vocab_size}_k{self.k}"

    @property
    def flops(self) -> str:
        """Comparisons, and an exponential of about 20 operations per logit."""
        return f"R * {self.vocab_size * (self.k + 20)}"

    @property
    def bytes(self) -> str:
        """The logits once."""
        return f"R * {4 * self.vocab_size}"

    def emit(self, library: Library) -> None:
        """Operands: logits, top_tokens, top_logprobs."""
        operands = {"logits": "f32", "top_tokens": "i32", "top_logprobs": "f32"}
        with library.kernel(self.name, operands, self.dims) as k, k.tiles() as row:
            load = load_row(k.operands["logits"].at(row * self.vocab_size), self.vocab_size)
            tokens, logprobs = (k.operands[name].at(row * self.k) for name in ("top_tokens", "top_logprobs"))
            peak, _ = argmax_row(load, self.vocab_size)
            total = log_sum_exp_row(load, self.vocab_size, peak)

            def take_next(i: Value, last: Value, token: Value) -> list[Value]:
                """The first of those that are smaller than the last, or equal and behind it."""
                value, index = argmax_row(load, self.vocab_size, lambda x, at: (x < last) | (x.eq(last) & (at > token)))
                tokens[i], logprobs[i] = index, value - peak - total
                return [value, index]

            carry(0, self.k, [constant(float("inf"), "f32"), constant(-1, "i32")], take_next)


def match(group: Function) -> Match | str:
    """The kernel of a group that is one `top_logprobs`, or why there is none."""
    operation = only_op(group, top_logprobs)
    if isinstance(operation, str):
        return operation
    (logits,) = operation.operands
    rows, vocab_size = type_of(logits).shape
    spec = TopLogprobsSpec(static(vocab_size), top_logprobs.attrs_of(operation)["k"])
    operands = (input_slot(group, logits), *(result_slot(group, value) for value in operation.results))
    return Match(spec, operands, {"R": str(rows)})
