"""Routing of tokens to experts: softmax and the largest parts of it, a warp or more for each token.

A search looks for the largest part, once for each choice. Part and index are one number of 64 bits, whose upper half is
the bits of the part (it is not negative, so they are in its order) and whose lower half prefers low indices.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.extents import next_power_of_2, warps_for
from warploom.codegen.cuda.kernel import Match, Options, Pointer, one_launch
from warploom.codegen.cuda.kernels.token_work import BlockOfToken
from warploom.codegen.cuda.render import render
from warploom.codegen.groups import input_slot, only_op, result_slot, static
from warploom.ir.function import Function
from warploom.ir.ops.routing import route_experts
from warploom.ir.types import DType, type_of

KIND = "route_experts"
MOST = 4096  # experts: logits of a token are held in registers


@dataclass(frozen=True, slots=True)
class RouteExpertsSpec(BlockOfToken):
    """shares f32 [T, choices] and chosen i32 [T, choices] of logits [T, experts]."""

    experts: int
    choices: int
    normalized: bool
    logits: DType
    pdl: bool

    @property
    def name(self) -> str:
        return f"route_{self.choices}of{self.experts}_{self.logits}{'_normalized' if self.normalized else ''}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        return Pointer("logits", self.logits), Pointer("shares", DType.F32), Pointer("chosen", DType.I32)

    @property
    def block(self) -> int:
        """Experts, padded to a power of two."""
        return max(32, next_power_of_2(self.experts))

    @property
    def options(self) -> Options:
        return Options(num_warps=warps_for(self.block, 16, 8), pdl=self.pdl)

    @property
    def flops(self) -> str:
        return f"{(4 + self.choices) * self.experts} * T"

    @property
    def bytes(self) -> str:
        return f"{self.experts * self.logits.numpy.itemsize + 8 * self.choices} * T"

    def source(self) -> str:
        return render("route_experts.py.j2", spec=self, kept=next_power_of_2(self.choices))

    def __str__(self) -> str:
        return f"the {self.choices} likeliest of {self.experts} experts"


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernel of a group that is one `route_experts`, or why there is none."""
    operation = only_op(group, route_experts)
    if isinstance(operation, str):
        return operation
    (logits,) = operation.operands
    attrs, type_ = route_experts.attrs_of(operation), type_of(logits)
    experts = static(type_.shape[1])
    if experts > MOST:
        return f"takes at most {MOST} experts; here {experts}"
    spec = RouteExpertsSpec(experts, attrs["k"], bool(attrs["normalized"]), type_.dtype, target.has_tma)
    operands = (input_slot(group, logits), *(result_slot(group, value) for value in operation.results))
    return one_launch(spec, operands, {"T": str(type_.shape[0])})
