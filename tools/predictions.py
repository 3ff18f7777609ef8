"""What the cost model is told of the launches of a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from warploom.passes.blocks import Blocks, Product
from warploom.passes.cost import Work
from warploom.runtime.expr import evaluate
from warploom.runtime.plan import Buffer, KernelInfo, Launch, Plan


def works(plan: Plan, entry: str, launches: Sequence[Launch], dims: Mapping[str, int]) -> list[Work]:
    """Return the work of each of an entry's launches at some values of its dims."""
    buffers = {buffer.name: buffer for buffer in plan.entries[entry].buffers}
    replaced = {one.launch.kernel: len(one.replaces) for one in plan.entries[entry].replacements}
    return [_work(plan.kernels[launch.kernel], launch, buffers, replaced, dims) for launch in launches]


def _work(
    info: KernelInfo,
    launch: Launch,
    buffers: Mapping[str, Buffer],
    replaced: Mapping[str, int],
    dims: Mapping[str, int],
) -> Work:
    own = {name: evaluate(expr, dims) for name, expr in zip(info.dims, launch.dims, strict=True)}
    flops = evaluate(info.flops, own)
    product = None
    if info.kind == "linear" and _is_main(info, launch):
        product = _linear(flops, launch, buffers, own)
    elif info.kind == "attention" and _is_main(info, launch):
        product = _attention(launch, buffers, own)
    return Work(
        kind=_kind(info, launch, product),
        bytes=evaluate(info.bytes, own),
        flops=flops,
        product=product,
        blocks=_blocks(info, launch, dims),
        phases=replaced.get(launch.kernel, 0),
    )


def _is_main(info: KernelInfo, launch: Launch) -> bool:
    """Whether a kernel is what its group is for: others, named otherwise, prepare what that reads."""
    return info.kind in launch.kernel


def _kind(info: KernelInfo, launch: Launch, product: Product | None) -> str:
    """Of loops with the op that they end with: angles take longer than others. Of helpers: their names' first word."""
    first, *rest = launch.kernel.split("_")
    if info.kind == "loops" and rest:
        return f"loops {rest[0]}"
    if info.kind == "attention" and product is not None and product.rows > 1:
        return "attention prompt"
    return info.kind if product is not None or info.kind not in ("linear", "attention") else first


def _blocks(info: KernelInfo, launch: Launch, dims: Mapping[str, int]) -> Blocks | None:
    if info.cuda is None:
        return None
    x, y, z = (max(1, evaluate(extent, dims)) for extent in launch.grid)
    return Blocks((x, y, z), info.cuda.shared_bytes)


def _linear(flops: int, launch: Launch, buffers: Mapping[str, Buffer], own: Mapping[str, int]) -> Product | None:
    """The weight is the largest matrix that the kernel is given; numbers of four bits come two a byte."""
    rows = own.get("T", 1)
    given = [buffers[name] for name in launch.operands[:-1] if name in buffers]
    matrices = [b for b in given if len(b.shape) == 2 and all(isinstance(extent, int) for extent in b.shape)]
    if not matrices:
        return None
    weight = max(matrices, key=lambda b: math.prod(map(int, b.shape)))
    columns, stored = map(int, weight.shape)
    depth = flops // (2 * columns * rows)
    return Product(rows, columns, depth, weight.dtype if stored == depth else "i4")


def _attention(launch: Launch, buffers: Mapping[str, Buffer], own: Mapping[str, int]) -> Product | None:
    """The result is [T, heads, head_dim]."""
    out = buffers.get(launch.operands[-1])
    if out is None or len(out.shape) != 3 or not {"T", "S"} <= own.keys():
        return None
    return Product(max(1, own["T"] // own["S"]), 0, evaluate(out.shape[-1], own), out.dtype)
