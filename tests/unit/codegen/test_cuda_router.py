"""Norm, router and choice of experts on CUDA: in Triton's interpreter, for few tokens and for more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.unit.codegen.triton_interpreter import run_kernel
from warploom.codegen.binding import Slot
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import TensorMap
from warploom.codegen.cuda.kernels.router import FEW, RouterSpec, lowered
from warploom.ir.dims import dim
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.routing import route_experts
from warploom.ir.types import DType
from warploom.runtime.expr import evaluate

ROOM = 16
BF16, F32 = DType.BF16, DType.F32
NAMES = ("x", "gain", "w", "normed", "shares", "chosen")
SPECS = [
    RouterSpec(7, 3, True, 48, F32, BF16, 1e-5, pdl=False),
    RouterSpec(128, 8, True, 96, BF16, F32, 1e-6, pdl=False),
    RouterSpec(60, 4, False, 64, F32, BF16, 1e-5, pdl=False),
]


def make_arrays(spec: RouterSpec) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(spec.k)
    return {
        "x": rng.standard_normal((ROOM, spec.k)).astype(BF16.numpy).astype(spec.x.numpy),
        "gain": rng.uniform(0.5, 1.5, spec.k).astype(spec.gain.numpy),
        "w": rng.standard_normal((spec.experts, spec.k)).astype(BF16.numpy),
        "normed": np.full((ROOM, spec.k), np.nan, BF16.numpy),
        "shares": np.full((ROOM, spec.choices), np.nan, np.float32),
        "chosen": np.full((ROOM, spec.choices), -9, np.int32),
    }


@pytest.mark.parametrize("tokens", [1, FEW, FEW + 1])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_tokens_are_routed(spec: RouterSpec, tokens: int) -> None:
    slots = {name: Slot("input", index) for index, name in enumerate(NAMES)}
    match = lowered(spec, slots, dim("T"), CudaTarget("sm_80"))  # whose linears the interpreter runs
    (variant,) = (v for v in match.variants if v.when is not None and v.when.min <= tokens <= v.when.max)
    assert len(variant.steps) == (1 if tokens <= FEW else 3)
    arrays = make_arrays(spec)
    temps = [np.zeros(t.type.resolve({"T": ROOM}), t.type.dtype.numpy) for t in match.temps]
    for step in variant.steps:
        kernel: Any = replace(step.spec, pdl=False)  # type: ignore[type-var]
        operands = []
        for slot, operand in zip(step.operands, kernel.operands, strict=True):
            array = temps[slot.index] if slot.side == "temp" else arrays[NAMES[slot.index]]
            shaped = isinstance(operand, TensorMap)
            operands.append(array.reshape([evaluate(n, {"T": ROOM}) for n in operand.shape]) if shaped else array)
        run_kernel(kernel, operands, {"T": tokens})
    assert not any(array.any() for t, array in zip(match.temps, temps, strict=True) if t.zeroed)
    wide = arrays["x"][:tokens].astype(np.float32), arrays["gain"].astype(np.float32)
    expected = rms_norm.evaluate(*wide, eps=spec.eps)
    normed = arrays["normed"][:tokens].astype(np.float32)
    np.testing.assert_allclose(normed, expected, rtol=0.01)
    assert np.isnan(arrays["normed"][tokens:].astype(np.float32)).all()
    logits = normed @ arrays["w"].astype(np.float32).T  # rounded like a kernel's, but for the order of sums
    shares, _ = route_experts.evaluate(logits, k=spec.choices, normalized=int(spec.normalized))
    assert (np.diff(np.sort(arrays["chosen"][:tokens])) > 0).all()
    found = np.take_along_axis(logits, arrays["chosen"][:tokens], 1)
    best = -np.sort(-logits, 1)[:, : spec.choices]
    np.testing.assert_allclose(found, best, rtol=0.01, atol=0.1)  # logits that bf16 cannot tell apart may change places
    np.testing.assert_allclose(arrays["shares"][:tokens], shares, rtol=0.1, atol=0.01)


def test_results_that_must_not_depend_on_the_batch_have_one_way() -> None:
    slots = {name: Slot("input", index) for index, name in enumerate(NAMES)}
    match = lowered(SPECS[0], slots, dim("T"), CudaTarget("sm_90", deterministic=True))
    assert {len(variant.steps) for variant in match.variants} == {3}
    assert match.variants[0].when is not None
    assert match.variants[0].when.min == 1
