"""Which keys of latent attention are expanded: keys and values of each head made of latents, before they are attended.

A score and its value take 2 latent + rotated multiplications of a row as it is in the cache, plain + rotated + value of
an expanded key: 1088 and 320 for DeepSeek. To expand a key takes latent * (plain + value) of each head, 131,072, so it
pays from 171 queries of the key on. Sequences with few tokens in a step therefore attend rows as they are. All keys of
the others are expanded, those of the context too, as far as there is room for them, the last ones first. What comes
before is attended as it is; the online softmax over expanded keys starts from its result and log-sum-exp.

Every kernel finds out for itself which keys those are, from the lengths of the sequences.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.kernel import Pointer
from warploom.ir.types import DType

ALIGNED = 128  # keys: a sequence's begin and end at multiples of it, in the sequence and in the room
FEWEST = 128  # tokens of a sequence in a step whose keys are expanded; kernels on expanded keys are faster than others
EXTRA_BYTES = 128 << 20  # of keys and values beyond those of the step's own tokens


@dataclass(frozen=True, slots=True)
class Expansion:
    """Room for `room` expanded keys, a multiple of ALIGNED, of heads with sizes in the config's words."""

    room: int
    num_heads: int
    latent: int
    plain: int
    rotated: int
    value: int

    @property
    def name(self) -> str:
        """Readable."""
        return f"{self.num_heads}x{self.plain}r{self.rotated}v{self.value}_of{self.room}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        """Expanded keys [room, heads * plain] and values [room, heads * value], and rotated keys [room, rotated]."""
        return tuple(Pointer(name, DType.BF16) for name in ("keys", "values", "turned_keys"))

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Of the operands."""
        widths = self.num_heads * self.plain, self.num_heads * self.value, self.rotated
        return tuple((self.room, width) for width in widths)

    @property
    def most(self) -> str:
        """Bound on expanded keys: of sequences with FEWEST tokens, contexts that fill their page tables."""
        return f"min({self.room}, T // {FEWEST} * ((P + 1) // 2) * {ALIGNED})"


def room_for(num_heads: int, plain: int, value: int, tokens: int, context: int) -> int:
    """Keys that there is room for, where a step has so many tokens at most, and a sequence such a context."""
    extra = EXTRA_BYTES // (2 * num_heads * (plain + value))
    most = max(1, tokens // FEWEST) * -(-context // ALIGNED) * ALIGNED
    return min(most, -(-(tokens + extra) // ALIGNED) * ALIGNED)
