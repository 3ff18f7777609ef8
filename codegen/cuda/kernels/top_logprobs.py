"""The k most likely tokens of each row of logits: each chunk's by k searches in registers, then those of all chunks."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.extents import next_power_of_2
from warploom.codegen.cuda.kernel import Match, Options, Pointer, Slot, Step, Temp, Variant
from warploom.codegen.cuda.render import render
from warploom.codegen.groups import input_slot, only_op, result_slot, static
from warploom.ir.function import Function
from warploom.ir.ops.sample import top_logprobs
from warploom.ir.types import DType, tensor, type_of

KIND = "top_logprobs"
MAX_CHUNK = 4096
MAX_CANDIDATES = 8192  # that one block searches


@dataclass(frozen=True, slots=True)
class TopLogprobsSpec:
    """top_tokens i32 and top_logprobs f32 [R, k] of logits [R, vocab_size]; descending, ties by index."""

    vocab_size: int
    k: int
    pdl: bool
    max_chunk: int = MAX_CHUNK

    @property
    def name(self) -> str:
        chunk = "" if self.max_chunk == MAX_CHUNK else f"_chunk_{self.max_chunk}"
        return f"top_logprobs_{self.vocab_size}_k{self.k}{chunk}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        floats = Pointer("logits", DType.F32), Pointer("chunks", DType.F32)
        indices = tuple(Pointer(name, DType.I32) for name in ("keys", "tokens", "counters", "top_tokens"))
        return (*floats, *indices, Pointer("top_logprobs", DType.F32))

    @property
    def temps(self) -> tuple[Temp, ...]:
        """Of a row: chunks: (largest, sum of exponentials) of each; keys and tokens of its k largest; chunks done."""
        best = Temp(tensor(("R", self.chunks, self.k), DType.I32))
        counters = Temp(tensor(("R",), DType.I32), zeroed=True)
        return Temp(tensor(("R", 2, self.chunks), DType.F32)), best, best, counters

    @property
    def dims(self) -> tuple[str, ...]:
        return ("R",)

    @property
    def chunk(self) -> int:
        """Tokens of a block."""
        return min(self.max_chunk, max(128, next_power_of_2(self.vocab_size)))

    @property
    def chunks(self) -> int:
        """Blocks of a row."""
        return -(-self.vocab_size // self.chunk)

    @property
    def grid(self) -> tuple[int, str, int]:
        return self.chunks, "R", 1

    @property
    def options(self) -> Options:
        return Options(num_warps=4, pdl=self.pdl)

    @property
    def flops(self) -> str:
        return f"{(self.k + 20) * self.vocab_size} * R"

    @property
    def bytes(self) -> str:
        return f"{4 * self.vocab_size} * R"

    def source(self) -> str:
        return render(
            "top_logprobs.py.j2",
            spec=self,
            chunks_padded=next_power_of_2(self.chunks),
            candidates_padded=next_power_of_2(self.chunks * self.k),
        )

    def __str__(self) -> str:
        return f"the {self.k} most likely of {self.vocab_size} tokens per row"


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernel of a group that is one `top_logprobs`, or why there is none."""
    operation = only_op(group, top_logprobs)
    if isinstance(operation, str):
        return operation
    (logits,) = operation.operands
    rows, vocab_size = type_of(logits).shape
    spec = TopLogprobsSpec(static(vocab_size), top_logprobs.attrs_of(operation)["k"], target.has_tma)
    if spec.chunks * spec.k > MAX_CANDIDATES:
        return f"k times the {spec.chunks} chunks of a row must be at most {MAX_CANDIDATES}; here k is {spec.k}"
    operands = (
        input_slot(group, logits),
        *(Slot("temp", index) for index in range(len(spec.temps))),
        *(result_slot(group, value) for value in operation.results),
    )
    return Match((Variant((Step(spec, operands, {"R": str(rows)}),)),), spec.temps)
