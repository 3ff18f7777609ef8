"""Fusion pays or is refused: what the cost model says of groups, and what is recorded."""

from __future__ import annotations

from dataclasses import replace

import mlir.ir as mlir
import pytest

from tests.targets import EAGER
from warploom.ir.dims import DimRange
from warploom.ir.function import Function, FunctionBuilder, functions
from warploom.ir.ops.elementwise import add
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import rms_norm
from warploom.ir.types import tensor
from warploom.passes import fuse_heroes
from warploom.passes.cost import device_of
from warploom.passes.profit import Gain, gain

H100 = device_of("cuda:sm_90")


def block() -> mlir.Module:
    """norm -> product -> residual."""
    module = mlir.Module.create()
    builder = FunctionBuilder(module, "step", {"T": DimRange(1, 4096)})
    x, w, g = (builder.input(n, tensor(d)) for n, d in (("x", ("T", 512)), ("w", (512, 512)), ("g", (512,))))
    with builder.point, mlir.Location.name("model.layers.0.mlp"):
        y = add(x, linear(rms_norm(x, g, eps=1e-5), w, n=512, layout="row"))
    builder.finish({"y": y})
    return module


def step(module: mlir.Module) -> Function:
    return functions(module)["step"]


@pytest.mark.usefixtures("wl")
def test_a_group_saves_launches_and_what_flows_between_its_ops() -> None:
    module = block()
    found = gain(step(module), step(module).ops, "linear", H100)
    assert found.refusal is None
    assert found.saved[1] == pytest.approx(2 * H100.launch_us, rel=0.05)
    assert found.saved[1024] > found.saved[1], "two activations are neither written nor read"


def test_no_gain_is_a_reason() -> None:
    assert Gain({1: -2.0, 1024: 0.5}).refusal is None
    assert Gain({1: -2.0, 1024: -0.5}).refusal == "not worth it, one kernel would take 0.5 us longer"


@pytest.mark.usefixtures("wl")
def test_decisions_name_what_they_save() -> None:
    module = block()
    fuse_heroes.fuse_heroes(module, replace(EAGER, name="cuda:sm_90"))
    (line,) = (str(line.value) for line in step(module).operation.attributes["wl.fusion"])
    assert "fused rms_norm + linear + add (saves 9.0 us at 1 token, " in line


@pytest.mark.usefixtures("wl")
def test_what_does_not_pay_stays_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuse_heroes, "gain", lambda *_: Gain({1: -1.0}))
    module = block()
    fuse_heroes.fuse_heroes(module, replace(EAGER, name="cuda:sm_90"))
    lines = [str(line.value) for line in step(module).operation.attributes["wl.fusion"]]
    assert any("not worth it, one kernel would take 1.0 us longer" in line for line in lines)
    assert any("fused linear as @" in line for line in lines)
