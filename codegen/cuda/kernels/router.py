"""From the residual stream to the experts of each token: RMSNorm, the router's linear, and the choice.

For few tokens all of it is one launch: a block computes some logits of a token, and the last block of a token to finish
(a counter tells) chooses. For more it is three. The normed rows are a result too: experts read them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import mlir.ir as mlir

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.extents import next_power_of_2, warps_for
from warploom.codegen.cuda.kernel import Guard, Match, Options, Pointer, Temp, Variant
from warploom.codegen.cuda.kernels.linear import lower
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.kernels.rms_norm import RmsNormSpec
from warploom.codegen.cuda.kernels.route_experts import MOST, RouteExpertsSpec
from warploom.codegen.cuda.render import render
from warploom.codegen.cuda.scope import Scope, Slots
from warploom.codegen.cuda.temps import Temps
from warploom.codegen.cuda.tuning import choices_for
from warploom.codegen.cuda.variants import after
from warploom.codegen.groups import input_slot, result_slot, static
from warploom.codegen.names import identifier
from warploom.ir.dims import DimLike
from warploom.ir.function import Function
from warploom.ir.ops.elementwise import cast
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.routing import route_experts
from warploom.ir.rewrite import is_op, producer
from warploom.ir.types import FLOATS, DType, tensor, type_of

KIND = "router"
FEW = 4  # tokens of the kernel for few
ROWS = 2  # experts of its blocks
WIDEST = 8192  # columns that it holds in registers


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """normed bf16 [T, k] of x [T, k]; shares f32 and chosen i32 [T, choices] by normed @ w^T, T <= FEW.

    scores f32 [FEW, experts] and counters i32 [FEW], zeroed, are what blocks share.
    """

    experts: int
    choices: int
    normalized: bool
    k: int
    x: DType
    gain: DType
    eps: float
    pdl: bool

    rows = ROWS

    @property
    def name(self) -> str:
        eps = identifier(f"{self.eps:g}")
        kind = f"{self.k}_{self.x}_{self.gain}_{eps}{'_normalized' if self.normalized else ''}"
        return f"router_{self.choices}of{self.experts}_{kind}"

    @property
    def operands(self) -> tuple[Pointer, ...]:
        inputs = Pointer("x", self.x), Pointer("gain", self.gain), Pointer("w", DType.BF16)
        shared = Pointer("scores", DType.F32), Pointer("counters", DType.I32)
        results = Pointer("normed", DType.BF16), Pointer("shares", DType.F32), Pointer("chosen", DType.I32)
        return (*inputs, *shared, *results)

    @property
    def dims(self) -> tuple[str, ...]:
        return ("T",)

    @property
    def block(self) -> int:
        """Experts, padded to a power of two."""
        return max(32, next_power_of_2(self.experts))

    @property
    def block_k(self) -> int:
        """Columns, padded to a power of two."""
        return next_power_of_2(self.k)

    @property
    def grid(self) -> tuple[int, str, int]:
        return -(-self.experts // ROWS), "T", 1

    @property
    def options(self) -> Options:
        return Options(num_warps=warps_for(self.block_k, 16, 8), pdl=self.pdl)

    @property
    def flops(self) -> str:
        return f"{(2 * self.experts + 4) * self.k} * T"

    @property
    def bytes(self) -> str:
        return f"{2 * self.experts * self.k} + {self.k * (self.x.numpy.itemsize + 2) + 8 * self.choices} * T"

    def source(self) -> str:
        return render("router.py.j2", spec=self, kept=next_power_of_2(self.choices))

    def __str__(self) -> str:
        return f"RMSNorm of rows of {self.k} {self.x}, the {self.choices} likeliest of {self.experts} experts for them"


@dataclass(frozen=True, slots=True)
class _Router:
    """The ops of a group."""

    norm: mlir.Operation
    product: mlir.Operation
    choice: mlir.Operation
    normed: mlir.Value

    @property
    def spec(self) -> RouterSpec:
        """The kernel for few tokens, without programmatic dependent launch."""
        x, gain = (type_of(value) for value in self.norm.operands)
        attrs = route_experts.attrs_of(self.choice)
        experts, k = linear.attrs_of(self.product)["n"], static(x.shape[-1])
        eps = rms_norm.attrs_of(self.norm)["eps"]
        return RouterSpec(experts, attrs["k"], bool(attrs["normalized"]), k, x.dtype, gain.dtype, eps, pdl=False)


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernels of a norm, a linear and the choice of experts, or why there are none."""
    found = _read(group)
    if isinstance(found, str):
        return found
    reason = _refusal(group, found)
    if reason is not None:
        return reason
    x, gain = found.norm.operands
    values = {"x": x, "gain": gain, "w": found.product.operands[1]}
    results = {"normed": found.normed, **dict(zip(("shares", "chosen"), found.choice.results, strict=True))}
    slots = {name: input_slot(group, value) for name, value in values.items()}
    slots |= {name: result_slot(group, value) for name, value in results.items()}
    return lowered(replace(found.spec, pdl=target.has_tma), slots, type_of(x).shape[0], target)


def lowered(spec: RouterSpec, slots: Slots, tokens: DimLike, target: CudaTarget) -> Match:
    """One launch for few tokens, three for more; where results must not depend on the batch, always three."""
    temps, rows = Temps(), str(tokens)
    logits = temps.slot("logits", Temp(tensor((tokens, spec.experts), DType.BF16)))
    scope = Scope({**slots, "logits": logits}, {"T": rows})
    norm = scope.step(RmsNormSpec(spec.k, spec.x, spec.gain, DType.BF16, spec.eps, spec.pdl), out="normed")
    choice = scope.step(RouteExpertsSpec(spec.experts, spec.choices, spec.normalized, DType.BF16, spec.pdl))
    problem = LinearProblem(spec.experts, spec.k)
    product = Scope({"x": slots["normed"], "w": slots["w"], "out": logits}, scope.dims)
    many = [
        Variant((norm, *variant.steps, choice), variant.when)
        for variant in lower(problem, product, choices_for(problem, target), target, temps).variants
    ]
    if target.deterministic or spec.k > WIDEST:
        return Match(tuple(many), temps.all)
    shared = {
        "scores": temps.slot("scores", Temp(tensor((FEW, spec.experts)))),
        "counters": temps.slot("counters", Temp(tensor((FEW,), DType.I32), zeroed=True)),
    }
    few = Variant((scope.with_slots(shared).step(spec),), Guard(rows, 1, FEW))
    return Match((few, *after(FEW, many)), temps.all)


def _read(group: Function) -> _Router | str:
    choices = [op for op in group.ops if is_op(op, route_experts)]
    product = producer(choices[0].operands[0], linear) if len(choices) == 1 else None
    if product is None:
        return "takes one choice of experts, by a linear"
    normed = product.operands[0]
    rounding = producer(normed, cast)
    norm = producer(normed if rounding is None else rounding.operands[0], rms_norm)
    if norm is None or len(group.ops) != (3 if rounding is None else 4):
        return f"takes a norm, a linear and a choice of experts, not {', '.join(op.name for op in group.ops)}"
    return _Router(norm, product, choices[0], normed)


def _refusal(group: Function, found: _Router) -> str | None:
    """Why no kernel computes it."""
    x, gain, w = (type_of(value) for value in (*found.norm.operands, found.product.operands[1]))
    if list(group.results.values()) != [found.normed, *found.choice.results]:
        return "the normed rows must be a result, and the choice, but nothing else"
    if (
        x.dtype not in (DType.F32, DType.BF16)
        or gain.dtype not in FLOATS
        or type_of(found.normed).dtype is not DType.BF16
    ):
        return f"norms f32 or bf16 to bf16; here {x} to {type_of(found.normed)}"
    if w.dtype is not DType.BF16 or linear.attrs_of(found.product)["layout"] != "row" or x.rank != 2:
        return f"the router's weight must be bf16 in rows; here {w}"
    if type_of(found.product.results[0]).dtype is not DType.BF16 or found.spec.experts > MOST:
        return f"logits must be bf16, of at most {MOST} experts; here {type_of(found.product.results[0])}"
    return None
