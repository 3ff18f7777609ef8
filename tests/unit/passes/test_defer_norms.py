"""Norms stay before their products where kernels norm what they read; where deferring saves a launch, they move."""

from __future__ import annotations

from dataclasses import replace

import mlir.ir as mlir
import pytest

from tests.targets import EAGER
from warploom.codegen.cpu.target import CPU
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.target import cuda
from warploom.ir.dims import DimRange
from warploom.ir.function import FunctionBuilder, functions
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.parameters import param
from warploom.ir.target import Target
from warploom.ir.types import tensor
from warploom.ir.verify import verify
from warploom.passes.decisions import recorded
from warploom.passes.defer_norms import defer_norms

H100 = cuda(CudaTarget("sm_90"))


def decided(target: Target, x: str = "bf16", weight: str = "bf16") -> tuple[list[str], list[str]]:
    """The ops of a norm and a product after the pass, and what was recorded."""
    module = mlir.Module.create()
    builder = FunctionBuilder(module, "step", {"T": DimRange(1, 4096)})
    rows = builder.input("x", tensor(("T", 512), x))
    with builder.point, mlir.Location.name("model.layers.0.mlp"):
        gain, matrix = (param(name=n, shape=s, dtype=weight) for n, s in (("g", (512,)), ("w", (256, 512))))
        builder.finish({"y": linear(rms_norm(rows, gain, eps=1e-5), matrix, n=256, layout="row")})
    defer_norms(module, target)
    verify(module)
    step = functions(module)["step"]
    return [op.name for op in step.ops], recorded(step)


@pytest.mark.parametrize("target", [CPU, H100], ids=lambda target: target.name)
def test_kernels_that_norm_what_they_read_keep_their_norms(wl: mlir.Context, target: Target) -> None:
    ops, (line,) = decided(target)
    assert "wl.rms_norm" in ops
    assert line.startswith("model.layers.0.mlp: rms_norm: stays before what reads it: kernels norm what they read")
    assert " us at 1 token, " in line, "the cost model says what it would cost"


def test_a_norm_that_is_a_launch_of_its_own_is_deferred_if_kernels_scale_rows(wl: mlir.Context) -> None:
    able = replace(H100, norms_rows=False, row_scales=lambda operation: None)
    ops, log = decided(able)
    assert "wl.rms_norm" not in ops
    assert {"wl.rsqrt", "wl.linear", "wl.mul"} <= set(ops)
    assert log == []
    _, (line,) = decided(replace(able, row_scales=lambda operation: "tiles are too narrow"))
    assert line.endswith("tiles are too narrow")


def test_a_weight_is_not_rounded_where_activations_are_not(wl: mlir.Context) -> None:
    ops, (line,) = decided(EAGER, x="f32", weight="bf16")
    assert "wl.rms_norm" in ops
    assert "weights of bf16 would be rounded once more, and activations of f32 are not" in line
    assert "wl.rms_norm" not in decided(EAGER, x="f32", weight="f32")[0]


def test_a_weight_that_others_read_is_not_stored_twice(wl: mlir.Context) -> None:
    module = mlir.Module.create()
    builder = FunctionBuilder(module, "step", {"T": DimRange(1, 64)})
    rows = builder.input("x", tensor(("T", 512)))
    with builder.point:
        gain, matrix = (param(name=n, shape=s, dtype="f32") for n, s in (("g", (512,)), ("w", (256, 512))))
        normed, plain = (linear(x, matrix, n=256, layout="row") for x in (rms_norm(rows, gain, eps=1e-5), rows))
        step = builder.finish({"y": normed, "z": plain})
    defer_norms(module, EAGER)
    assert "wl.rms_norm" in [op.name for op in step.ops]
    assert "others read a weight too" in recorded(step)[0]
