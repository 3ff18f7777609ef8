"""Decodes over 8-bit latent rows on Hopper: what the kernel takes, and that it fits. It runs on a GPU only."""

from __future__ import annotations

import pytest

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.compile import compile_kernels
from warploom.codegen.cuda.kernels.hopper_latent_decode import TILE, HopperLatentDecodeSpec, takes
from warploom.codegen.cuda.kernels.latent_problem import LatentProblem
from warploom.ir.types import DType


@pytest.mark.parametrize(
    ("sizes", "kv", "arch", "taken"),
    [
        ((16, 512, 64), DType.F8, "sm_90", True),
        ((5, 256, 64), DType.I8, "sm_90", True),
        ((16, 512, 64), DType.BF16, "sm_90", False),
        ((16, 512, 64), DType.I8, "sm_80", False),
        ((16, 48, 64), DType.I8, "sm_90", False),
        ((16, 128, 64), DType.I8, "sm_90", False),
        ((16, 640, 64), DType.I8, "sm_90", False),
        ((16, 512, 32), DType.I8, "sm_90", False),
    ],
    ids=str,
)
def test_what_it_takes(sizes: tuple[int, int, int], kv: DType, arch: str, taken: bool) -> None:
    assert takes(LatentProblem(*sizes, 0.1, kv), CudaTarget(arch)) == taken


def test_it_fits() -> None:
    """FP8, whose rows are widened by an instruction of Hopper; 16 bytes are copied and read at once."""
    spec = HopperLatentDecodeSpec(LatentProblem(16, 512, 64, 192**-0.5, DType.F8), TILE, pdl=True)
    (kernel,) = compile_kernels([spec], CudaTarget("sm_90"))
    assert kernel.resources.spill_bytes == 0
    assert "cvt.rn.f16x2.e4m3x2" in kernel.ptx
    assert "cp.async.cg.shared.global" in kernel.ptx
    assert "ld.shared.b8" not in kernel.ptx
