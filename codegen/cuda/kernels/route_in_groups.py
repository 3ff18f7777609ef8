"""Routing of tokens to experts of their best groups, a warp or more for each token, scores as rows of a group each."""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.extents import next_power_of_2, warps_for
from warploom.codegen.cuda.kernel import Match, Options, Pointer, one_launch
from warploom.codegen.cuda.kernels.token_work import BlockOfToken
from warploom.codegen.cuda.render import render
from warploom.codegen.groups import input_slot, only_op, result_slot, static
from warploom.codegen.names import identifier
from warploom.ir.function import Function
from warploom.ir.ops.group_routing import SMALL, route_in_groups
from warploom.ir.types import DType, type_of

KIND = "route_in_groups"
MOST = 4096  # experts: scores of a token are held in registers
BEST = 2  # of a group


@dataclass(frozen=True, slots=True)
class RouteInGroupsSpec(BlockOfToken):
    """shares f32 [T, k] and chosen i32 [T, k] of logits [T, experts]; fields as the attributes of the op."""

    experts: int
    k: int
    score: str
    groups: int
    kept: int
    best: int
    normalized: bool
    scale: float
    bias: bool
    logits: DType
    pdl: bool

    @property
    def name(self) -> str:
        shape = f"{self.k}of{self.experts}_{self.kept}of{self.groups}best{self.best}_{self.logits}_{self.score}"
        flags = f"{'_bias' if self.bias else ''}{'_normalized' if self.normalized else ''}"
        return identifier(f"route_{shape}{flags}_scale_{self.scale.hex()}")

    @property
    def operands(self) -> tuple[Pointer, ...]:
        bias = (Pointer("bias", DType.F32),) if self.bias else ()
        return Pointer("logits", self.logits), *bias, Pointer("shares", DType.F32), Pointer("chosen", DType.I32)

    @property
    def block(self) -> tuple[int, int]:
        """Groups and experts of one, padded to powers of two, 32 at least together."""
        rows = next_power_of_2(self.groups)
        return rows, max(-(-32 // rows), next_power_of_2(self.experts // self.groups))

    @property
    def options(self) -> Options:
        return Options(num_warps=warps_for(self.block[0] * self.block[1], 8, 8), pdl=self.pdl)

    @property
    def flops(self) -> str:
        return f"{(6 + self.k) * self.experts} * T"

    @property
    def bytes(self) -> str:
        return f"{self.experts * self.logits.numpy.itemsize + 8 * self.k} * T"

    def source(self) -> str:
        return render("route_in_groups.py.j2", spec=self, choices=next_power_of_2(self.k), small=SMALL)

    def __str__(self) -> str:
        return f"{self.k} of {self.experts} experts, of the best {self.kept} of {self.groups} groups"


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernel of a group that is one `route_in_groups`, or why there is none."""
    operation = only_op(group, route_in_groups)
    if isinstance(operation, str):
        return operation
    logits, *bias = operation.operands
    attrs, type_ = route_in_groups.attrs_of(operation), type_of(logits)
    experts = static(type_.shape[1])
    if experts > MOST or attrs["best"] > BEST:
        return f"takes at most {MOST} experts, {BEST} best of a group; here {experts}, {attrs['best']}"
    attrs["normalized"] = bool(attrs["normalized"])
    spec = RouteInGroupsSpec(experts, **attrs, bias=bool(bias), logits=type_.dtype, pdl=target.has_tma)
    operands = (
        *(input_slot(group, value) for value in operation.operands),
        *(result_slot(group, value) for value in operation.results),
    )
    return one_launch(spec, operands, {"T": str(type_.shape[0])})
