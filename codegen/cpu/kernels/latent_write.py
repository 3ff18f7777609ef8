"""Writing latent rows to their slots of the cache: one tile per token."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cpu.control import when
from warploom.codegen.cpu.emitter import Library
from warploom.codegen.cpu.kernel import Match
from warploom.codegen.cpu.kernels.latent_rows import PAGE, RowFormat
from warploom.codegen.cpu.kernels.refusals import refuse_activations, refuse_rows
from warploom.codegen.cpu.memory import ELEMENT_BYTES
from warploom.codegen.cpu.values import convert_int
from warploom.codegen.groups import input_slot, kv_slot, only_op, static
from warploom.ir.function import Function
from warploom.ir.ops.latent_attention import latent_write
from warploom.ir.types import type_of

KIND = "latent_write"


@dataclass(frozen=True, slots=True)
class LatentWriteSpec:
    """latent [T, latent] and rope_key [T, rotated], f32, into rows of kv_dtype."""

    latent: int
    rotated: int
    kv_dtype: str

    dims = ("T",)
    tiles = "T"
    scratch_bytes = 0
    flops = "0"

    @property
    def name(self) -> str:
        """Symbol, unique per spec."""
        return f"latent_write_{self.kv_dtype}_{self.latent}r{self.rotated}"

    @property
    def bytes(self) -> str:
        """Numbers in and out."""
        return f"T * {(4 + ELEMENT_BYTES[self.kv_dtype]) * (self.latent + self.rotated)}"

    def emit(self, library: Library) -> None:
        """Operands: latent, rope_key, slots, kv (at the layer)."""
        operands = {"latent": "f32", "rope_key": "f32", "slots": "i32", "kv": self.kv_dtype}
        with library.kernel(self.name, operands, self.dims) as k, k.tiles() as token:
            rows = RowFormat(self.latent, self.rotated, self.kv_dtype)
            slot = convert_int(k.operands["slots"][token], "i64")
            page, offset = k.operands["kv"].at((slot >> 4) * rows.page), slot & (PAGE - 1)
            with when(slot >= 0):
                for name, start, size in (("latent", 0, self.latent), ("rope_key", self.latent, self.rotated)):
                    rows.write(page, offset, start, k.operands[name].at(token * size), size)


def match(group: Function) -> Match | str:
    """The kernel of a group that is one `latent_write`, or why there is none."""
    operation = only_op(group, latent_write)
    if isinstance(operation, str):
        return operation
    kv, latent, rope_key, slots = operation.operands
    attrs = latent_write.attrs_of(operation)
    sizes = (static(type_of(latent).shape[1]), static(type_of(rope_key).shape[1]))
    refusal = refuse_activations(latent, rope_key) or refuse_rows(*sizes, attrs["page_size"])
    if refusal is not None:
        return refusal
    spec = LatentWriteSpec(*sizes, type_of(kv).dtype.value)
    operands = (*(input_slot(group, value) for value in (latent, rope_key, slots)), kv_slot(group, kv, attrs["layer"]))
    return Match(spec, operands, {"T": str(type_of(latent).shape[0])})
