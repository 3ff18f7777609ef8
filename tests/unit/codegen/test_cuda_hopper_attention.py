"""Attention of prompts on Hopper: which problems its kernel takes, and that it fits there. It is run on a GPU only."""

from __future__ import annotations

import pytest

from warploom.codegen.cpu.kernels.groups import Range
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.compile import compile_kernels
from warploom.codegen.cuda.kernels.attention_problem import AttentionProblem
from warploom.codegen.cuda.kernels.hopper_attention import HopperAttentionSpec, takes
from warploom.codegen.cuda.kernels.projection import Projection
from warploom.ir.types import DType

HOPPER = CudaTarget("sm_90")
LLAMA = AttentionProblem(32, 8, 128, 128**-0.5)


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
        AttentionProblem(
            32, 8, 128, 128**-0.5, projection=Projection(Range(0, 6144), Range(4096, 6144), Range(5120, 6144), 64)
        ),
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
