"""One token per row of logits, in one launch and without a sort.

A block holds one chunk of a row in registers. Rows that need nothing of other chunks (greedy ones, and plain draws at a
temperature, because the largest of logit + Gumbel noise is a draw) are done in one pass: the last block of a row to
finish picks the best of all chunks. Where tokens are truncated, the blocks of a row look for the cutoff together: they
count and weigh what lies above a few bounds, publish, meet at a counter, add up all chunks in order, and go on between
two bounds, which are the bits of floats in an order that integers have.

That blocks wait for each other is safe. A block draws its row and chunk when it starts, so that the blocks of a row
start before those of later rows, whatever the order in which a GPU starts blocks. A row whose blocks have all started
goes on. So if all blocks that run were to wait, they would belong to the last row that has begun, and be fewer than its
blocks, which all fit on any GPU at once (MAX_CHUNKS): there is room for the next one to start. Other kernels do not
take this room for ever: earlier ones end, and one that depends on this one starts only when all its blocks have.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.extents import next_power_of_2
from warploom.codegen.cuda.kernel import Match, Options, Pointer, Slot, Step, Temp, Variant
from warploom.codegen.cuda.render import render
from warploom.codegen.groups import input_slot, only_op, result_slot, static
from warploom.ir.function import Function
from warploom.ir.ops.random import PARITY, ROTATIONS
from warploom.ir.ops.sample import BANNED, sample
from warploom.ir.types import DType, tensor, type_of

KIND = "sample"
MAX_CHUNK = 4096
BOUNDS = 8  # tried at once
MAX_CHUNKS = 48  # blocks that wait for each other: any GPU holds three on each of its 16 or more multiprocessors


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """tokens i32 [R] and logprobs f32 [R] of logits [R, vocab_size]; the operands of `wl.sample`."""

    vocab_size: int
    pdl: bool
    max_chunk: int = MAX_CHUNK

    @property
    def name(self) -> str:
        return f"sample_{self.vocab_size}" + ("" if self.max_chunk == MAX_CHUNK else f"_chunk_{self.max_chunk}")

    @property
    def operands(self) -> tuple[Pointer, ...]:
        inputs = tuple(Pointer(operand.name, min(operand.dtypes)) for operand in sample.operands)
        floats = tuple(Pointer(name, DType.F32) for name in ("adjusted", "chunks", "sums"))
        indices = Pointer("best_tokens", DType.I32), Pointer("counters", DType.I32)
        return (*inputs, *floats, *indices, Pointer("tokens", DType.I32), Pointer("logprobs", DType.F32))

    @property
    def temps(self) -> tuple[Temp, ...]:
        """Of a row.

        adjusted: logits with biases and penalties, banned ones lowered. chunks: of each, the largest logit, the sum
        of exponentials, the best with noise, the largest adjusted and the sum of exponentials of these. sums: count
        and mass above each bound in each chunk, of two phases in turn. best_tokens: of the chunks. counters: chunks
        that have met, and that are done; at last, of all rows, blocks that have started, and rows that are done.
        """
        return (
            Temp(tensor(("R", self.vocab_size), DType.F32)),
            Temp(tensor(("R", 5, self.chunks), DType.F32)),
            Temp(tensor(("R", 2, self.chunks, 2, BOUNDS), DType.F32)),
            Temp(tensor(("R", self.chunks), DType.I32)),
            Temp(tensor(("R+1", 2), DType.I32), zeroed=True),
        )

    @property
    def dims(self) -> tuple[str, ...]:
        return "R", "H", "B", "M"

    @property
    def chunk(self) -> int:
        """Tokens of a block: a power of two, such that a row has at most MAX_CHUNKS."""
        least = next_power_of_2(-(-self.vocab_size // MAX_CHUNKS))
        return max(least, min(self.max_chunk, max(128, next_power_of_2(self.vocab_size))))

    @property
    def chunks(self) -> int:
        """Blocks of a row."""
        return -(-self.vocab_size // self.chunk)

    @property
    def grid(self) -> tuple[str, int, int]:
        return f"{self.chunks} * R", 1, 1

    @property
    def options(self) -> Options:
        return Options(num_warps=8, maxnreg=80, pdl=self.pdl)

    @property
    def flops(self) -> str:
        return f"{20 * self.vocab_size} * R"

    @property
    def bytes(self) -> str:
        return f"{4 * self.vocab_size} * R"

    def source(self) -> str:
        return render(
            "sample.py.j2",
            spec=self,
            bounds=BOUNDS,
            chunks_padded=next_power_of_2(self.chunks),
            banned=BANNED,
            parity=PARITY,
            rotations=ROTATIONS,
        )

    def __str__(self) -> str:
        return f"sampling of one of {self.vocab_size} tokens per row"


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernel of a group that is one `sample`, or why there is none."""
    operation = only_op(group, sample)
    if isinstance(operation, str):
        return operation
    values = dict(zip((operand.name for operand in sample.operands), operation.operands, strict=True))
    rows, vocab_size = type_of(values["logits"]).shape
    spec = SampleSpec(static(vocab_size), target.has_tma)
    widths = {"H": "penalty_tokens", "B": "bias_tokens", "M": "banned_bits"}
    operands = (
        *(input_slot(group, value) for value in values.values()),
        *(Slot("temp", index) for index in range(len(spec.temps))),
        *(result_slot(group, value) for value in operation.results),
    )
    dims = {"R": str(rows)} | {dim: str(type_of(values[name]).shape[1]) for dim, name in widths.items()}
    return Match((Variant((Step(spec, operands, dims),)),), spec.temps)
