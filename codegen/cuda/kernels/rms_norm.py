"""RMSNorm of rows: one block a row, which it holds in registers."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.extents import next_power_of_2, warps_for
from warploom.codegen.cuda.kernel import Match, Options, Pointer, Slot, one_launch
from warploom.codegen.cuda.kernels.token_work import BlockOfToken
from warploom.codegen.cuda.render import render
from warploom.codegen.names import identifier
from warploom.ir.dims import product
from warploom.ir.function import Function
from warploom.ir.ops.elementwise import cast
from warploom.ir.ops.norm import rms_norm
from warploom.ir.rewrite import is_op, producer
from warploom.ir.types import DType, type_of

KIND = "rms_norm"
COLUMNS_PER_THREAD = 16


@dataclass(frozen=True, slots=True)
class RmsNormSpec(BlockOfToken):
    """out [T, k] = x / sqrt(mean(x^2) + eps) * gain, computed in f32."""

    k: int
    x: DType
    gain: DType
    out: DType
    eps: float
    pdl: bool

    @property
    def name(self) -> str:
        eps = identifier(f"{self.eps:g}")
        return f"rms_norm_{self.k}_{self.x}_{self.gain}_{self.out}_{eps}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        return Pointer("x", self.x), Pointer("gain", self.gain), Pointer("out", self.out)

    @property
    def block(self) -> int:
        """The row, padded to a power of two."""
        return next_power_of_2(self.k)

    @property
    def options(self) -> Options:
        return Options(num_warps=warps_for(self.block, COLUMNS_PER_THREAD, 16), pdl=self.pdl)

    @property
    def flops(self) -> str:
        return f"{4 * self.k} * T"

    @property
    def bytes(self) -> str:
        return f"{self.k * (self.x.numpy.itemsize + self.out.numpy.itemsize)} * T"

    def source(self) -> str:
        return render("rms_norm.py.j2", spec=self)

    def __str__(self) -> str:
        return f"RMSNorm of rows of {self.k} {self.x}"


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernel of an RMSNorm, and a cast of its result."""
    operation, *after = group.ops
    (result,) = group.results.values()
    casts = [producer(result, cast)] if after else []
    if after != casts or not is_op(operation, rms_norm):
        return f"takes rms_norm and a cast, not {', '.join(op.name for op in group.ops)}"
    if type_of(result).dtype not in (DType.F32, DType.BF16):
        return f"the result must be f32 or bf16; here {type_of(result)}"
    x, gain = (type_of(value) for value in operation.operands)
    *rows, k = x.shape
    if not isinstance(k, int):
        return f"the row must be static; here {k}"
    eps = rms_norm.attrs_of(operation)["eps"]
    spec = RmsNormSpec(k, x.dtype, gain.dtype, type_of(result).dtype, eps, target.has_tma)
    inputs = list(group.inputs.values())
    operands = (*(Slot("input", inputs.index(value)) for value in operation.operands), Slot("result", 0))
    return one_launch(spec, operands, {"T": str(product(rows))})
