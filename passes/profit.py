"""Whether fusing pays: the predicted time of a group beside that of its ops one by one, in a decode and in a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlir.ir as mlir

from warploom.ir.dims import DimRange, product, resolve
from warploom.ir.function import Function
from warploom.ir.rewrite import defining_op
from warploom.ir.types import type_of
from warploom.passes.cost import Device, Work, saved_us
from warploom.passes.outline import inputs_of, results_of

TOKENS = (1, 1024)  # of the steps that are looked at; other symbols are as small as they may be
POOL = "C"  # pages of the cache, of which a step touches its own only


@dataclass(frozen=True)
class Gain:
    """Microseconds that one launch saves over one an op, by number of tokens."""

    saved: dict[int, float]

    @property
    def refusal(self) -> str | None:
        """Why not to fuse, or None."""
        best = max(self.saved.values())
        return None if best > 0 else f"not worth it, one kernel would take {-best:.1f} us longer"

    def __str__(self) -> str:
        parts = (f"{us:.1f} us at {tokens} token{'s' * (tokens > 1)}" for tokens, us in self.saved.items())
        return f"saves {', '.join(parts)}"

    @property
    def loss(self) -> str:
        """What it costs, where it saves nothing."""
        parts = (f"{-us:.1f} us at {tokens} token{'s' * (tokens > 1)}" for tokens, us in self.saved.items())
        return f"costs {', '.join(parts)}"


def gain(caller: Function, ops: Sequence[mlir.Operation], kind: str, device: Device) -> Gain:
    """Return what fusing ops into one kernel of a kind saves on a device."""
    saved = {}
    for tokens in TOKENS:
        dims = _sizes(caller.dims, tokens)
        separate = [_work([op], _kind(op, kind), dims) for op in ops]
        saved[tokens] = saved_us(separate, _work(ops, kind, dims), device)
    return Gain(saved)


def deferred_norm(caller: Function, norm: mlir.Operation, norms_rows: bool, device: Device) -> Gain:
    """Return what it saves to scale rows after a product instead of norming them before it.

    Args:
        norms_rows: the product's kernel norms what it reads, so that there is no launch to save.
    """
    (x, weight), saved = norm.operands, {}
    for tokens in TOKENS:
        dims = _sizes(caller.dims, tokens)
        elements = resolve(product(type_of(x).shape), dims)
        norms = Work("rms_norm", 2 * _bytes(x, dims) + _bytes(weight, dims), 4 * elements)
        squares = Work("loops", _bytes(x, dims), 2 * elements)
        saved[tokens] = saved_us([] if norms_rows else [norms], squares, device)
    return Gain(saved)


def _sizes(known: Mapping[str, DimRange], tokens: int) -> dict[str, int]:
    wanted = {"T": tokens}
    return {name: min(max(wanted.get(name, 1), bounds.min, 1), max(bounds.max, 1)) for name, bounds in known.items()}


def _kind(operation: mlir.Operation, group: str) -> str:
    """An op alone is computed by a kernel of the group's kind if it has weights to read, else by a loop."""
    return group if operation.name.endswith(("linear", "attention")) else "loops"


def _work(ops: Sequence[mlir.Operation], kind: str, dims: Mapping[str, int]) -> Work:
    moved = sum(_bytes(value, dims) for value in (*inputs_of(ops), *results_of(ops)))
    return Work(kind, moved, sum(_flops(op, dims) for op in ops))


def _bytes(value: mlir.Value, dims: Mapping[str, int]) -> int:
    type_ = type_of(value)
    if any(POOL in getattr(dim, "symbols", ()) for dim in type_.shape):
        return 0
    return resolve(product(type_.shape), dims) * type_.dtype.numpy.itemsize


def _flops(operation: mlir.Operation, dims: Mapping[str, int]) -> int:
    """Two a multiply-add of a product; one an element of everything else, but for views none."""
    type_ = type_of(operation.results[0])
    elements = resolve(product(type_.shape), {**dims, POOL: 1})
    if operation.name.endswith("linear"):
        columns = type_of(operation.operands[0]).shape[-1]
        return 2 * elements * resolve(columns, dims)
    is_view = operation.name in ("wl.reshape", "wl.slice") and defining_op(operation.operands[0]) is not None
    return 0 if is_view else elements
