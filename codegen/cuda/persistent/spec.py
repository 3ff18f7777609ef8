"""The persistent kernel of a chain: what it is given, what its clusters hand on, and its source."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

from warploom.codegen.cuda.kernel import Operand, Options, Pointer, Table
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.persistent.phases import Attention, Phase
from warploom.codegen.cuda.persistent.split import Split
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.codegen.expressions import substitute
from warploom.ir.types import DType

PATIENCE = 1 << 24  # tries, some seconds, after which waiting is an error instead of a hang
_CONSTANTS = {"cos": DType.F32, "sin": DType.F32}  # all others are i32


@dataclass(frozen=True, slots=True)
class PersistentSpec:
    """All repetitions of a layer's phases, T = 1: q, k and v, attention, output, gate and up, down."""

    phases: tuple[Phase, ...]
    split: Split
    repetitions: int

    page_size: ClassVar[int] = PAGE_SIZE
    patience: ClassVar[int] = PATIENCE

    @property
    def name(self) -> str:
        """Unique to the spec."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:8]
        return f"persistent_{self.repetitions}x{len(self.phases)}_{digest}"

    @property
    def operands(self) -> tuple[Operand, ...]:
        """table, the residual stream before the layers, constants, the stream after them, and words that are zero."""
        return (
            Table("table", self.repetitions * len(self.columns)),
            Pointer("initial", DType.F32),
            *(Pointer(name, _CONSTANTS.get(name, DType.I32)) for name in self.constants),
            Pointer("result", DType.F32),
            Pointer("exchange", DType.I32),
        )

    @property
    def dims(self) -> tuple[str, ...]:
        """The width of the page table, which only its cost depends on."""
        return ("P",)

    @property
    def grid(self) -> tuple[int, int, int]:
        """One block for each multiprocessor of each cluster."""
        return self.split.clusters * self.split.blocks, 1, 1

    @property
    def options(self) -> Options:
        """How it is compiled and launched; one warp does not multiply."""
        return Options(
            num_warps=self.split.warps + 1,
            pdl=True,
            cooperative=True,
            cluster=self.split.blocks,
            shared_bytes=self.split.shared_bytes,
        )

    @property
    def flops(self) -> str:
        """Of all phases in all repetitions."""
        problems = (phase.problem for phase in self.phases)
        return self._in_all([p.flops("1") if isinstance(p, LinearProblem) else p.flops for p in problems])

    @property
    def bytes(self) -> str:
        """Of all phases in all repetitions."""
        problems = (phase.problem for phase in self.phases)
        return self._in_all([p.bytes("1") if isinstance(p, LinearProblem) else p.bytes for p in problems])

    def _in_all(self, of_phases: list[str]) -> str:
        one = " + ".join(f"({substitute(expr, {'T': 1, 'S': 1, 'P': 'P'})})" for expr in of_phases)
        return f"{self.repetitions} * ({one})"

    @property
    def attention(self) -> Attention:
        """The phase that is attention."""
        return next(phase for phase in self.phases if isinstance(phase, Attention))

    @property
    def constants(self) -> tuple[str, ...]:
        """Operands that are the same in all repetitions."""
        return self.attention.roles.constants

    @property
    def columns(self) -> tuple[tuple[int, str], ...]:
        """Of the table: operands that differ by repetition, as (phase, name)."""
        return tuple((i, name) for i, phase in enumerate(self.phases) for name in phase.roles.tables)

    @property
    def exchange_words(self) -> int:
        """Parts of sums that clusters hand on, of the output projection and of down, in all repetitions."""
        return self.repetitions * self.split.clusters * self.split.hidden

    @property
    def scale(self) -> float:
        """Of scores whose exponentials are powers of two."""
        return self.attention.problem.score_scale

    @property
    def epsilons(self) -> list[float]:
        """Of the norms of a layer."""
        problems = (phase.problem for phase in self.phases)
        return [p.norm.eps for p in problems if isinstance(p, LinearProblem) and p.norm is not None]

    def column(self, phase: int, name: str) -> int:
        """Where the table has an operand."""
        return self.columns.index((phase, name))

    def source(self) -> str:
        """The CUDA C++ source."""
        return render("persistent.cu.j2", spec=self)

    def __str__(self) -> str:
        return f"{self.repetitions} times {len(self.phases)} kernels of one token as one"
