"""Attention of prompts on Hopper: which problems its kernel takes, and that it fits there. It is run on a GPU only."""

from __future__ import annotations

import pytest

from warploom.codegen.columns import Range
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.compile import compile_kernels
from warploom.codegen.cuda.kernel import Slot
from warploom.codegen.cuda.kernels.attention import lower
from warploom.codegen.cuda.kernels.attention_problem import AttentionProblem
from warploom.codegen.cuda.kernels.hopper_attention import HopperAttentionSpec, takes
from warploom.codegen.cuda.kernels.projection import Projection
from warploom.codegen.cuda.scope import Scope
from warploom.ir.types import DType, tensor

HOPPER = CudaTarget("sm_90")
LLAMA = AttentionProblem(32, 8, 128, 128**-0.5)
FUSED = Projection(Range(0, 6144), Range(4096, 6144), Range(5120, 6144), 64)


@pytest.mark.parametrize(
    ("problem", "arch", "taken"),
    [
        (LLAMA, "sm_90", True),
        (LLAMA, "sm_80", False),
        (LLAMA, "sm_120", False),
        (AttentionProblem(32, 8, 128, 128**-0.5, window=100), "sm_90", False),
        (AttentionProblem(8, 4, 256, 0.1), "sm_90", False),
        (AttentionProblem(9, 3, 64, 0.1, kv=DType.F8), "sm_90", True),
        (AttentionProblem(9, 3, 64, 0.1, kv=DType.F8, scaled=True), "sm_90", True),
        (AttentionProblem(9, 3, 64, 0.1, kv=DType.I8), "sm_90", False),
    ],
    ids=str,
)
def test_what_it_takes(problem: AttentionProblem, arch: str, taken: bool) -> None:
    assert takes(problem, CudaTarget(arch)) == taken


@pytest.mark.parametrize(
    "problem",
    [
        AttentionProblem(32, 8, 128, 128**-0.5, projection=FUSED),
        AttentionProblem(32, 8, 128, 128**-0.5, kv=DType.F8, scaled=True, projection=FUSED),
        AttentionProblem(32, 8, 128, 128**-0.5, kv=DType.F8, scaled=True),
        AttentionProblem(9, 3, 64, 0.125, softcap=30.0, sinks=DType.BF16),
    ],
    ids=lambda problem: problem.name,
)
def test_it_fits(problem: AttentionProblem) -> None:
    """Four groups of warps: one that starts the others, two that compute and one that loads; without spills."""
    (kernel,) = compile_kernels([HopperAttentionSpec(problem)], HOPPER)
    assert kernel.resources.num_warps == 16
    assert kernel.resources.spill_bytes == 0
    assert "barrier.sync \t1;" in kernel.ptx
    assert "bar.sync \t0, 128" not in kernel.ptx, "the first warps have a barrier of their own"


@pytest.mark.parametrize(
    ("kv", "projection", "arch", "is_fresh"),
    [
        (DType.F8, FUSED, "sm_90", True),
        (DType.BF16, FUSED, "sm_90", False),
        (DType.F8, None, "sm_90", False),
        (DType.F8, FUSED, "sm_89", False),
    ],
    ids=str,
)
@pytest.mark.parametrize("deterministic", [False, True])
def test_prompts_over_8_bits_share_what_the_write_leaves(
    kv: DType, projection: Projection | None, arch: str, is_fresh: bool, deterministic: bool
) -> None:
    """The write and attention name one temp, which holds keys and values of all tokens; decodes do not know it."""
    problem = AttentionProblem(32, 8, 128, 128**-0.5, kv=kv, projection=projection)
    names = ("q", "k", "v", "cos", "sin", "slots", "kv", "page_table", "query_start", "context_lens", "out")
    slots = {name: Slot("input", index) for index, name in enumerate(names)}
    scope = Scope(slots, {"T": "T", "S": "S", "P": "P", "C": "C"})
    found = lower(problem, scope, CudaTarget(arch, deterministic=deterministic))
    *write, attention = found.variants[-1].steps
    bound = [dict(zip((o.name for o in s.spec.operands), s.operands, strict=True)) for s in (*write, attention)]
    places = [operands.get("fresh") for operands in bound]
    if not is_fresh:
        assert not any(places)
        return
    assert places[0] is not None
    assert places[0] == places[1]
    assert found.temps[places[0].index].type == tensor(("T", 2, 8, 128), DType.F16)
    for variant in found.variants[:-1]:
        assert all(operand.name != "fresh" for step in variant.steps for operand in step.spec.operands)
