"""The persistent kernel of a chain: where blocks hand on numbers, and its source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from warploom.codegen.cuda.kernel import Operand, Options, Pointer, Table
from warploom.codegen.cuda.kernels.attention_problem import AttentionProblem
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.persistent.flow import Read, clearing_phase
from warploom.codegen.cuda.persistent.phases import KEYS_OF_WARP, PIECE, WARPS, Attention, Gemv, Phase
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.codegen.expressions import substitute
from warploom.ir.types import DType

ALIGNMENT = 8  # words between values start at multiples of this
PATIENCE = 1 << 24  # polls, some seconds, after which waiting is an error instead of a hang
_CONSTANTS = {"cos": DType.F32, "sin": DType.F32}  # all others are i32


@dataclass(frozen=True, slots=True)
class Place:
    """Where `length` numbers are handed on: from `word` on, of this repetition or the one before."""

    word: int
    length: int
    dtype: DType
    back: int = 0

    @property
    def is_half(self) -> bool:
        """Whether two numbers are in a word."""
        return self.dtype is DType.BF16

    @property
    def words(self) -> int:
        """That it takes."""
        return self.length * self.dtype.numpy.itemsize // 4

    @property
    def pieces(self) -> int:
        """Of `PIECE` numbers."""
        return -(-self.length // PIECE)


@dataclass(frozen=True, slots=True)
class PhaseView:
    """A phase as the source speaks of it: places and columns by the names of its operands."""

    phase: Phase
    places: Mapping[str, Place]
    columns: Mapping[str, int]
    out: Place
    parts: Place | None
    result: str | None

    @property
    def problem(self) -> LinearProblem | AttentionProblem:
        """What it computes."""
        return self.phase.problem

    @property
    def tiles(self) -> int:
        """Blocks that have a part in it."""
        return self.phase.tiles

    @property
    def rows(self) -> int:
        """Outputs of a block of a GEMV."""
        assert isinstance(self.phase, Gemv)
        return self.phase.rows

    @property
    def is_gemv(self) -> bool:
        """Or attention."""
        return isinstance(self.phase, Gemv)

    @property
    def x(self) -> Place:
        """Of a GEMV."""
        return self.places["x"]

    @property
    def residual(self) -> Place | None:
        """Of a GEMV that adds one."""
        return self.places.get("residual")

    @property
    def source(self) -> Place:
        """Where q, k and v are."""
        return self.places["q"]


@dataclass(frozen=True, slots=True)
class PersistentSpec:
    """All repetitions of a chain's phases, T = 1.

    Attributes:
        reads: of every phase, by the names of its operands.
        results: phases whose last value others read.
        blocks: that the GPU holds at once, one on a multiprocessor.
    """

    phases: tuple[Phase, ...]
    reads: tuple[tuple[tuple[str, Read], ...], ...]
    results: tuple[int, ...]
    repetitions: int
    blocks: int

    num_warps = WARPS
    piece = PIECE
    page_size = PAGE_SIZE
    patience = PATIENCE

    @property
    def name(self) -> str:
        """Unique to the spec."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:8]
        return f"persistent_{self.repetitions}x{len(self.phases)}_{digest}"

    @property
    def operands(self) -> tuple[Operand, ...]:
        """table, what the first repetition is given, constants, results, and memory that is zero between launches."""
        given = [Pointer(name, place.dtype) for place, name in self.initials]
        constants = [Pointer(name, _CONSTANTS.get(name, DType.I32)) for name in self.constants]
        results = [Pointer(f"result{i}", self.phases[i].made[1]) for i in self.results]
        zeroed = Pointer("exchange", DType.I32), Pointer("done", DType.I32)
        return (Table("table", self.repetitions * len(self.columns)), *given, *constants, *results, *zeroed)

    @property
    def dims(self) -> tuple[str, ...]:
        """The width of the page table, which only its cost depends on."""
        return ("P",)

    @property
    def grid(self) -> tuple[int, int, int]:
        """One block for each multiprocessor."""
        return self.blocks, 1, 1

    @property
    def options(self) -> Options:
        """How it is compiled and launched."""
        return Options(num_warps=WARPS, pdl=True, cooperative=True)

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
    def attention(self) -> Attention | None:
        """The phase that is attention, if there is one."""
        return next((phase for phase in self.phases if isinstance(phase, Attention)), None)

    @property
    def constants(self) -> tuple[str, ...]:
        """Operands that are the same in all repetitions."""
        return self.attention.roles.constants if self.attention is not None else ()

    @property
    def columns(self) -> tuple[tuple[int, str], ...]:
        """Of the table: operands that differ by repetition, as (phase, name)."""
        return tuple((i, name) for i, phase in enumerate(self.phases) for name in phase.roles.tables)

    @property
    def outs(self) -> tuple[Place, ...]:
        """Where each phase hands on what it makes."""
        places, word = [], 0
        for phase in self.phases:
            places.append(Place(word, *phase.made))
            word += -(-places[-1].words // ALIGNMENT) * ALIGNMENT
        return tuple(places)

    @property
    def parts_word(self) -> int:
        """Where blocks that share a head hand on their parts."""
        last = self.outs[-1]
        return last.word + -(-last.words // ALIGNMENT) * ALIGNMENT

    @property
    def stride(self) -> int:
        """Words of a repetition."""
        return self.parts_word + (self.attention.part_words if self.attention is not None else 0)

    @property
    def exchange_words(self) -> int:
        """Words of all repetitions, and of one before the first."""
        return (self.repetitions + 1) * self.stride

    @property
    def initials(self) -> tuple[tuple[Place, str], ...]:
        """What the first repetition reads of the one before it, and the operand that holds it."""
        carried = sorted({read.phase for reads in self.reads for _, read in reads if read.back})
        return tuple((self.outs[i], f"initial{i}") for i in carried)

    @property
    def clearing(self) -> int | None:
        """The phase that clears what the repetition before made."""
        return clearing_phase([[read for _, read in reads] for reads in self.reads])

    def views(self) -> Iterator[PhaseView]:
        """The phases for the source."""
        outs, columns = self.outs, self.columns
        for i, (phase, reads) in enumerate(zip(self.phases, self.reads, strict=True)):
            places = {
                name: Place(outs[read.phase].word, outs[read.phase].length, outs[read.phase].dtype, read.back)
                for name, read in reads
            }
            parts = Place(self.parts_word, phase.part_words, DType.F32) if isinstance(phase, Attention) else None
            own = {name: column for column, (owner, name) in enumerate(columns) if owner == i}
            yield PhaseView(phase, places, own, outs[i], parts, f"result{i}" if i in self.results else None)

    @property
    def fetches(self) -> list[tuple[int, bool]]:
        """How many words a thread waits for at once, and whether they hold halves."""
        places = [view.x for view in self.views() if view.is_gemv]
        found = {(-(-place.words // PIECE), place.is_half) for place in places} | {(1, False)}
        return sorted(found | ({(5, True)} if self.attention is not None else set()))

    @property
    def padded_splits(self) -> int:
        """Blocks that may share a head, padded to a power of two."""
        return _power_of_two(self.attention.splits) if self.attention is not None else 0

    def share(self, tiles: int) -> int:
        """Words of a repetition that one of so many blocks clears."""
        return _power_of_two(-(-self.stride // tiles))

    def source(self) -> str:
        """The Gluon module."""
        views = list(self.views())
        return render("persistent.py.j2", spec=self, views=views, run=KEYS_OF_WARP, padded_splits=self.padded_splits)

    def __str__(self) -> str:
        return f"{self.repetitions} times {len(self.phases)} kernels of one token as one"


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
