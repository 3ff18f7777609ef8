"""How far two correct runs of one program may be apart: by what its coarsest numbers lose, rounded the other way."""

from __future__ import annotations

from collections.abc import Sequence

import mlir.ir as mlir

from warploom.ir.function import Function, functions
from warploom.ir.op import op_of
from warploom.ir.rewrite import is_weight
from warploom.ir.types import DType, type_of
from warploom.ir.verify import PREPARE
from warploom.tools.execution import is_cuda

EXACT = 1e-4  # f32, whose sums go in another order
HALF = 0.02  # two steps of bf16, of the largest number
CUDA = 0.03  # products of bf16
COARSE = 0.1  # numbers of eight bits or less, measured on random weights of 30 layers
ROUNDINGS = {DType.F16: HALF, DType.BF16: HALF, DType.F8: COARSE, DType.I8: COARSE, DType.I4: COARSE}


def usual_tolerance(module: mlir.Module, places: Sequence[str]) -> float:
    """Return what results of the module's entries may differ by, as a fraction of the largest number.

    Args:
        places: where they were computed.
    """
    rounded = [f for name, f in functions(module).items() if name != PREPARE]
    found = [ROUNDINGS.get(dtype, EXACT) for function in rounded for dtype in _made(function)]
    return max([CUDA if any(map(is_cuda, places)) else EXACT, *found])


def _made(function: Function) -> set[DType]:
    """The dtypes of what its ops compute of anything but weights, which are the same everywhere."""
    computed = [op for op in function.ops if op_of(op) is not None and any(not is_weight(x) for x in op.operands)]
    return {type_of(result).dtype for op in computed for result in op.results}
