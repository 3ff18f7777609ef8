"""Where kernels that rotate find q, k and v: one matrix, one pair of angles for both, or a reason."""

from __future__ import annotations

import mlir.ir as mlir
import pytest

from warploom.codegen.cuda.kernels.projection import Projected, projected
from warploom.ir.dims import DimRange
from warploom.ir.function import FunctionBuilder
from warploom.ir.ops.rope import rope
from warploom.ir.ops.shape import reshape, slice_axis
from warploom.ir.types import tensor

HEADS, DIM = 2, 16


def found(builder: FunctionBuilder, angles_of_k: str) -> Projected | str:
    both = builder.input("qkv", tensor(("T", 3 * HEADS * DIM)))
    angles = {name: builder.input(name, tensor(("T", DIM // 2))) for name in ("cos", "sin", "cos2", "sin2")}
    with builder.point:
        width = HEADS * DIM
        parts = [slice_axis(both, axis=1, start=i * width, stop=(i + 1) * width) for i in range(3)]
        q, k, v = (reshape(part, shape=("T", HEADS, DIM)) for part in parts)
        q = rope(q, angles["cos"], angles["sin"])
        if angles_of_k:
            k = rope(k, *(angles[name] for name in angles_of_k.split()))
    return projected(q, k, v)


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("angles", ["cos2 sin2", "cos sin2", "sin cos", ""])
def test_q_and_k_of_other_angles_are_not_rotated_by_one_kernel(angles: str) -> None:
    module = mlir.Module.create()
    builder = FunctionBuilder(module, "step", {"T": DimRange(1, 8)})
    assert found(builder, angles) == "q and k are rotated by different angles"


@pytest.mark.usefixtures("wl")
def test_q_and_k_of_the_same_angles_are() -> None:
    module = mlir.Module.create()
    where = found(FunctionBuilder(module, "step", {"T": DimRange(1, 8)}), "cos sin")
    assert isinstance(where, Projected)
    assert [part.start for part in (where.projection.q, where.projection.k, where.projection.v) if part] == [0, 32, 64]
    assert where.projection.half == DIM // 2
