"""Launches find operands and dims by name; temps are as large as any variant needs."""

from __future__ import annotations

import pytest

from warploom.codegen.binding import Slot, Temp
from warploom.codegen.cuda.kernels.linear_problem import Norm
from warploom.codegen.cuda.kernels.round_rows import RoundRowsSpec
from warploom.codegen.cuda.scope import Scope
from warploom.codegen.cuda.temps import Temps
from warploom.ir.dims import dim
from warploom.ir.types import DType, tensor

SPEC = RoundRowsSpec(64, DType.BF16, Norm(1e-5, DType.BF16), pdl=False)  # x, gain, out, out_scale; T


def inputs(*names: str) -> dict[str, Slot]:
    return {name: Slot("input", index) for index, name in enumerate(names)}


def test_operands_come_in_the_kernels_order_and_only_its_own_dims() -> None:
    scope = Scope(inputs("out_scale", "out", "gain", "x", "unused"), {"T": "2*S", "S": "S"})
    step = scope.step(SPEC)
    assert [slot.index for slot in step.operands] == [3, 2, 1, 0]
    assert step.dims == {"T": "2*S"}


def test_operands_may_have_other_names() -> None:
    scope = Scope(inputs("x", "gain"), {"T": "T"}).with_temps(["rounded", "out_scale"])
    step = scope.step(SPEC, out="rounded")
    assert step.operands == (Slot("input", 0), Slot("input", 1), Slot("temp", 0), Slot("temp", 1))


def test_an_operand_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError, match="out_scale"):
        Scope(inputs("x", "gain", "out"), {"T": "T"}).step(SPEC)


def test_temps_of_one_name_are_one_and_as_large_as_the_largest() -> None:
    temps = Temps()
    small, large = Temp(tensor((4, 8), DType.F32)), Temp(tensor((9, 8), DType.F32))
    rows = Temp(tensor((dim("T"), 8), DType.F32))
    slots = [temps.slot("partials", small), temps.slot("rows", rows), temps.slot("partials", large)]
    assert slots == [Slot("temp", 0), Slot("temp", 1), Slot("temp", 0)]
    assert temps.slot("partials", small) == slots[0]
    assert temps.all == (large, rows)
