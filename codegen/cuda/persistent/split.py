"""How clusters of blocks share a layer of a transformer, for one token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from warploom.codegen.columns import Range
from warploom.codegen.cuda.kernels.attention_problem import AttentionProblem
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.persistent.flow import Flow, Read
from warploom.codegen.cuda.persistent.phases import HEAD_DIM, Phase

BLOCKS = 8  # of a cluster: as many as every GPU that has clusters allows
CLUSTERS = 15  # of 8 blocks with most of the shared memory, that an H100 SXM holds at once; of 16 it holds 7
MOST_WARPS = 10  # that multiply: more would have too few registers
ATTENDING = 8  # warps that take keys
FETCHERS = 4  # warps that wait for other clusters
PAUSE = 150  # nanoseconds between copies of a few kB of weights
MOST_PAIRS = 9  # of columns, of four rows, in a lane's registers
MOST_GROUP = 3  # query heads of a kv head, whose sums are in a lane's registers
SHARED_BYTES = 227 * 1024
MOST_STAGES = 4  # layers whose weights a block holds at once: more come no sooner
LAYER: Flow = (  # what the phases of a layer read: of each other, and of down in the layer before
    (Read(4, 1, True),),  # q, k and v
    (Read(0, 0, False),) * 3,  # attention
    (Read(1, 0, True), Read(4, 1, False)),  # its output, and the residual
    (Read(2, 0, True),),  # gate and up
    (Read(3, 0, True), Read(2, 0, False)),  # down, and the residual
)


@dataclass(frozen=True, slots=True)
class Split:
    """A cluster for each kv head: q, k, v, attention, its columns of the output. Others have parts of the inner dims.

    Every block of a cluster has the same number of rows of what the cluster multiplies.

    Attributes:
        hidden, inner: widths of the residual stream and of the layer between.
        heads: of keys and values, each with a cluster.
        group: query heads of each.
        parts: clusters that share the inner dims.
        gain_bytes: of a number of the norms' gains, which are bf16 or f32.
    """

    hidden: int
    inner: int
    heads: int
    group: int
    parts: int
    gain_bytes: int

    blocks = BLOCKS
    head_dim = HEAD_DIM
    attending = ATTENDING
    fetchers = FETCHERS
    pause = PAUSE

    @property
    def clusters(self) -> int:
        """Of both kinds."""
        return self.heads + self.parts

    @property
    def slice(self) -> int:
        """Numbers of the residual stream that a block adds up."""
        return self.hidden // BLOCKS

    @property
    def head_rows(self) -> int:
        """Rows of q, k and v of a block."""
        return (self.group + 2) * HEAD_DIM // BLOCKS

    @property
    def gates(self) -> int:
        """Inner dims of a block."""
        return self.inner // self.parts // BLOCKS

    @property
    def warps(self) -> int:
        """That multiply: four rows of the residual stream's width each, or eight of a cluster's columns."""
        return max(self.head_rows // 4, self.gates // 2, self.slice // 8, ATTENDING)

    @property
    def head_bytes(self) -> int:
        """Weights of a block of a head, in a layer, with the norm's gain."""
        return 2 * (self.head_rows * self.hidden + self.slice * self.group * HEAD_DIM) + self.gain_bytes * self.hidden

    @property
    def part_bytes(self) -> int:
        """Weights of a block of a part, in a layer, with the norm's gain."""
        return 2 * (2 * self.gates * self.hidden + self.slice * self.gates * BLOCKS) + self.gain_bytes * self.hidden

    @property
    def reserved(self) -> int:
        """Bytes of shared memory for what is no weight: at least as many as there are (the source holds this to it)."""
        columns = self.group * HEAD_DIM
        words = self.hidden + columns * (ATTENDING + BLOCKS + 2) + 2 * HEAD_DIM + self.gates * BLOCKS
        words += 2 * FETCHERS * self.slice + 2 * self.group * (ATTENDING + BLOCKS)
        return -(-(4 * words + 1024) // 128) * 128

    @property
    def stages_of_heads(self) -> int:
        """Layers whose weights a block of a head holds at once."""
        return min(MOST_STAGES, (SHARED_BYTES - self.reserved) // self.head_bytes)

    @property
    def stages_of_parts(self) -> int:
        """Layers whose weights a block of a part holds at once."""
        return min(MOST_STAGES, (SHARED_BYTES - self.reserved) // self.part_bytes)

    @property
    def shared_bytes(self) -> int:
        """Of a block."""
        rings = self.stages_of_heads * self.head_bytes, self.stages_of_parts * self.part_bytes
        return self.reserved + max(rings)


def split_of(phases: Sequence[Phase], flow: Flow) -> Split | str:
    """How clusters share the phases of a layer, or why they cannot."""
    if [tuple(reads) for reads in flow] != list(LAYER):
        return "what repeats is no layer of attention and a gated MLP"
    match [phase.problem for phase in phases]:
        case [
            LinearProblem() as projections,
            AttentionProblem() as attention,
            LinearProblem(),
            LinearProblem() as gate,
            LinearProblem(),
        ]:
            return _split(projections, attention, gate)
        case _:
            return "what repeats is no layer of attention and a gated MLP"


def _split(projections: LinearProblem, attention: AttentionProblem, gate: LinearProblem) -> Split | str:
    a, projection = attention, attention.projection
    stride = (a.num_heads + 2 * a.num_kv_heads) * HEAD_DIM
    starts = 0, a.num_heads * HEAD_DIM, (a.num_heads + a.num_kv_heads) * HEAD_DIM
    if projection is None or (projection.q, projection.k, projection.v) != tuple(Range(s, stride) for s in starts):
        return "q, k and v must be all that their projection makes, in this order"
    if projections.norm is None or gate.norm is None or gate.epilogue != "swiglu":
        return "projections must be normed, and the MLP SwiGLU"
    if projections.norm.gain is not gate.norm.gain:
        return "gains of both norms must be of one dtype"
    hidden, inner = projections.k, gate.width
    widths = [
        Split(hidden, inner, a.num_kv_heads, a.group, parts, projections.norm.gain.numpy.itemsize)
        for parts in range(CLUSTERS - a.num_kv_heads, 0, -1)
        if inner % (parts * BLOCKS * 4) == 0
    ]
    why = "no way to share it was found"
    for split in widths:
        if not (why := _excess(split)):
            return split
    return why


def _excess(split: Split) -> str:
    """What a GPU does not have for a split; nothing: it has all."""
    if split.hidden % (8 * BLOCKS) or split.hidden // 64 > MOST_PAIRS or split.group > MOST_GROUP:
        return (
            f"widths must be multiples of {8 * BLOCKS} up to {64 * MOST_PAIRS}, and up to {MOST_GROUP} heads have a key"
        )
    if split.slice * 4 < split.group * HEAD_DIM:
        return "heads are too wide for the residual stream"
    if split.warps > MOST_WARPS:
        return f"blocks would need {split.warps} warps that multiply, {MOST_WARPS} have registers"
    if min(split.stages_of_heads, split.stages_of_parts) < 2:
        return "the weights of two layers do not fit the shared memory"
    return ""
