"""Attention over expanded keys on Hopper: which problems its kernel takes, and that it fits. It runs on a GPU only."""

from __future__ import annotations

import pytest

from warploom.codegen.columns import Range
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.compile import compile_kernels
from warploom.codegen.cuda.kernels.expanded_attention import ExpandedProblem
from warploom.codegen.cuda.kernels.expansion import Expansion
from warploom.codegen.cuda.kernels.hopper_expanded_attention import HopperExpandedAttentionSpec, takes

LITE = Expansion(24576, 16, 512, 128, 64, 128)
SMALL = Expansion(1024, 3, 32, 16, 8, 24)


@pytest.mark.parametrize(
    ("expansion", "arch", "taken"), [(LITE, "sm_90", True), (LITE, "sm_80", False), (SMALL, "sm_90", False)], ids=str
)
def test_what_it_takes(expansion: Expansion, arch: str, taken: bool) -> None:
    assert takes(expansion, CudaTarget(arch)) == taken


def test_it_fits() -> None:
    """Four groups of warps: one that starts the others, two that compute and one that loads; without spills."""
    spec = HopperExpandedAttentionSpec(ExpandedProblem(LITE, Range(0, 3072), 192**-0.5))
    (kernel,) = compile_kernels([spec], CudaTarget("sm_90"))
    assert kernel.resources.num_warps == 16
    assert kernel.resources.spill_bytes == 0
    assert "barrier.sync \t1;" in kernel.ptx
    assert "bar.sync \t0, 128" not in kernel.ptx, "the first warps have a barrier of their own"
