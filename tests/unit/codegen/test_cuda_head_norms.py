"""Norms of heads on CUDA: columns of a projection, read where they lie, are normed as each norm alone would."""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np
import pytest

from tests.unit.codegen.triton_interpreter import run_kernel
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernels.head_norms import HeadNormsSpec, Part
from warploom.codegen.cuda.target import cuda
from warploom.ir.dims import DimRange
from warploom.ir.function import FunctionBuilder, functions
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.shape import reshape, slice_axis
from warploom.ir.types import DType, tensor
from warploom.ir.verify import verify
from warploom.passes.fuse_heroes import fuse_heroes

BF16, F32 = DType.BF16, DType.F32


@pytest.mark.parametrize(
    ("parts", "size"),
    [
        ((Part(0, 5, BF16), Part(90, 2, BF16)), 16),
        ((Part(0, 1, F32), Part(70, 1, F32)), 70),  # of all heads together
        ((Part(13, 20, BF16),), 8),
        ((Part(0, 3, F32), Part(60, 3, BF16), Part(120, 2, F32)), 20),
    ],
)
@pytest.mark.parametrize("dtype", [BF16, F32])
def test_heads_are_normed(parts: tuple[Part, ...], size: int, dtype: DType) -> None:
    rng = np.random.default_rng(size)
    matrix = rng.standard_normal((4, 200)).astype(dtype.numpy)
    gains = [rng.uniform(0.5, 1.5, size).astype(part.gain.numpy) for part in parts]
    outs = [np.full((4, part.heads, size), np.nan, dtype.numpy) for part in parts]
    run_kernel(HeadNormsSpec(parts, 200, size, dtype, 1e-5, pdl=False), [matrix, *gains, *outs], {"T": 4})
    for part, gain, out in zip(parts, gains, outs, strict=True):
        heads = matrix[:, part.start : part.start + part.heads * size].reshape(4, part.heads, size)
        expected = rms_norm.evaluate(heads.astype(np.float64), gain.astype(np.float64), eps=1e-5)
        np.testing.assert_allclose(out.astype(np.float64), expected, rtol=0.01 if dtype is BF16 else 1e-5, atol=1e-6)


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("sizes", [(32, 16), (48, 8)])
def test_norms_of_one_projection_are_one_launch(sizes: tuple[int, int]) -> None:
    module = mlir.Module.create()
    builder = FunctionBuilder(module, "step", {"T": DimRange(1, 64)})
    matrix = builder.input("x", tensor(("T", 64), BF16))
    q_gain, k_gain = builder.input("q_gain", tensor((8,), BF16)), builder.input("k_gain", tensor((8,), BF16))
    with builder.point:
        start, results = 0, {}
        for name, size, gain in (("q", sizes[0], q_gain), ("k", sizes[1], k_gain)):
            heads = slice_axis(matrix, axis=1, start=start, stop=start + size)
            results[name] = rms_norm(reshape(heads, shape=("T", size // 8, 8)), gain, eps=1e-5)
            start += size
    builder.finish(results)
    fuse_heroes(module, cuda(CudaTarget("sm_90")))
    verify(module)
    calls = [op for op in functions(module)["step"].ops if op.name == "func.call"]
    assert [op.attributes["callee"].value for op in calls] == ["head_norms_0"]
