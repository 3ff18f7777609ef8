"""CUDA C++ is compiled without a GPU, by the wheels alone."""

from __future__ import annotations

import pytest

from warploom.codegen.cuda.nvrtc import NvrtcError, cubin_of, ptx_of

KERNEL = 'extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2; }'


def test_a_kernel_becomes_ptx_and_machine_code() -> None:
    ptx = ptx_of("twice", KERNEL, 90)
    assert ".entry twice(" in ptx
    assert ".target sm_90" in ptx
    assert cubin_of(ptx, 90).startswith(b"\x7fELF")


def test_what_the_compilers_reject_is_said() -> None:
    with pytest.raises(NvrtcError, match=r'twice\.cu\(1\): error: identifier "y" is undefined'):
        ptx_of("twice", KERNEL.replace("x[", "y["), 90)
    with pytest.raises(NvrtcError, match="ptxas"):
        cubin_of("nothing", 90)
