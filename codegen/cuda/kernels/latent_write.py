"""Latent rows to their slots of the KV pages: the latent normed, the key rotated, and with them the queries rotated.

A block takes one token's row, or a few heads of its queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.codegen.columns import Columns, Range, columns_of
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.extents import next_power_of_2
from warploom.codegen.cuda.kernel import Match, Options, Pointer, one_launch
from warploom.codegen.cuda.kernels.latent_format import FACTS, LatentFormat
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.target import PAGE_SIZE
from warploom.codegen.groups import input_slot, kv_slot, result_slot, static
from warploom.codegen.names import identifier
from warploom.ir.function import Function
from warploom.ir.ops.latent_attention import latent_write
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.rope import rope
from warploom.ir.ops.shape import reshape
from warploom.ir.rewrite import is_op, producer
from warploom.ir.types import DType, type_of

KIND = "latent_write"
HEADS = 4  # of a block


@dataclass(frozen=True, slots=True)
class LatentWriteSpec:
    """Rows [latent + rotated] of ranges of columns, and queries [T, num_heads, rotated], all of dtype x.

    Attributes:
        gain: dtype of the weight of the latent's norm; None: it is as it is to be written.
        eps: of the norm.
        half: pairs of the key, and of each head of queries, to be rotated; 0: none.
        queries: where they are; None: there are none, and num_heads is 0.
    """

    latent: int
    rotated: int
    num_heads: int
    x: DType
    kv: DType
    gain: DType | None
    eps: float
    half: int
    latents: Range
    keys: Range
    queries: Range | None
    pdl: bool

    @property
    def name(self) -> str:
        eps = f"_norm_{self.gain}_{self.eps:g}" if self.gain else ""
        queries = f"_q{self.queries}x{self.num_heads}" if self.queries else ""
        shape = f"{self.x}_{self.kv}_{self.latent}r{self.rotated}h{self.half}_l{self.latents}_k{self.keys}"
        return identifier(f"latent_write_{shape}{queries}{eps}")

    @property
    def operands(self) -> tuple[Pointer, ...]:
        q, out = ([Pointer(name, self.x)] if self.queries else [] for name in ("q", "out"))
        gain = [Pointer("gain", self.gain)] if self.gain else []
        angles = [Pointer(name, DType.F32) for name in ("cos", "sin")] if self.half else []
        rows = Pointer("latents", self.x), Pointer("rope_keys", self.x)
        return (*q, *rows, *gain, *angles, Pointer("slots", DType.I32), Pointer("kv", self.kv), *out)

    @property
    def format(self) -> LatentFormat:
        """Of the rows in the cache."""
        return LatentFormat(self.latent, self.rotated, self.kv)

    @property
    def dims(self) -> tuple[str, ...]:
        return ("T",)

    @property
    def grid(self) -> tuple[str, int, int]:
        return "T", 1 + -(-self.num_heads // HEADS), 1

    @property
    def options(self) -> Options:
        return Options(num_warps=2, pdl=self.pdl)

    @property
    def flops(self) -> str:
        return f"{4 * self.latent + 6 * (1 + self.num_heads) * self.half} * T"

    @property
    def bytes(self) -> str:
        read = self.latent + self.rotated * (1 + 2 * self.num_heads)
        return f"{read * self.x.numpy.itemsize + self.format.bytes_of_row + 8 * self.half} * T"

    def source(self) -> str:
        return render(
            "latent_write.py.j2",
            spec=self,
            heads=HEADS,
            facts=FACTS,
            page_size=PAGE_SIZE,
            block_runs=next_power_of_2(len(self.format.runs)),
            block_l=next_power_of_2(self.latent),
            block_r=next_power_of_2(self.rotated),
        )

    def __str__(self) -> str:
        queries = f", {self.num_heads} queries rotated" if self.queries else ""
        return f"latent rows of {self.latent} + {self.rotated} to their pages{queries}"


@dataclass(frozen=True, slots=True)
class _Rotation:
    """Columns that are rotated by angles (cos, sin), or by none."""

    source: Columns
    angles: tuple[mlir.Value, ...]


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernel of a `latent_write`, with norm and rotations before it, and that of one q; or why there is none."""
    write = next((op for op in group.ops if is_op(op, latent_write)), None)
    if write is None or latent_write.attrs_of(write)["page_size"] != PAGE_SIZE:
        return f"takes a latent_write into pages of {PAGE_SIZE} rows"
    kv, latent, key, slots = write.operands
    others = [value for value in group.results.values() if value != write.results[0]]
    if len({type_of(value).dtype for value in (latent, key, *others)}) > 1 or len(others) > 1:
        return "beside the cache one q of the dtype of the rows can be written"
    norm = producer(latent, rms_norm)
    rows, *turned = columns_of(latent if norm is None else norm.operands[0]), *map(_rotation, (key, *others))
    if isinstance(rows, str) or any(isinstance(found, str) for found in turned):
        return "rows and q are no ranges of columns"
    keys, *queries = [found for found in turned if isinstance(found, _Rotation)]
    if any(q.angles != keys.angles or not q.angles for q in queries):
        return "q is not rotated as the key is"
    gains = [] if norm is None else [norm.operands[1]]
    spec = LatentWriteSpec(
        latent=static(type_of(latent).shape[1]),
        rotated=static(type_of(key).shape[1]),
        num_heads=static(type_of(others[0]).shape[1]) if others else 0,
        x=type_of(latent).dtype,
        kv=type_of(kv).dtype,
        gain=type_of(gains[0]).dtype if gains else None,
        eps=rms_norm.attrs_of(norm)["eps"] if norm is not None else 0.0,
        half=static(type_of(keys.angles[0]).shape[1]) if keys.angles else 0,
        latents=rows.range,
        keys=keys.source.range,
        queries=queries[0].source.range if queries else None,
        pdl=target.has_tma,
    )
    read = (*(q.source.matrix for q in queries), rows.matrix, keys.source.matrix, *gains, *keys.angles, slots)
    operands = (
        *(input_slot(group, value) for value in read),
        kv_slot(group, kv, latent_write.attrs_of(write)["layer"]),
        *(result_slot(group, value) for value in others),
    )
    return one_launch(spec, operands, {"T": str(type_of(latent).shape[0])})


def _rotation(value: mlir.Value) -> _Rotation | str:
    """What a key [T, rotated] or a q [T, heads, rotated] is a rotation of."""
    view = producer(value, reshape)
    turned = producer(value if view is None else view.operands[0], rope)
    source = columns_of(value if turned is None else turned.operands[0])
    return source if isinstance(source, str) else _Rotation(source, tuple(turned.operands)[1:] if turned else ())
