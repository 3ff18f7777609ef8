"""The chosen experts of a token from x to the weighted sum of what they make: two launches for few tokens, else four.

Few tokens: gate and up of every choice, then down of all choices, summed. Many: tokens are sorted by expert; gate and
up write rows in that order, down puts them back into the order of tokens, and they are summed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Match, Slot, Step, Temp, Variant
from warploom.codegen.cuda.kernels.combine_experts import CombineExpertsSpec
from warploom.codegen.cuda.kernels.expert_gemm import ExpertGemmSpec, Rows
from warploom.codegen.cuda.kernels.expert_gemv import ExpertGemvSpec, ExpertSumSpec
from warploom.codegen.cuda.kernels.expert_group import read_problem, weight_slots
from warploom.codegen.cuda.kernels.expert_linear import guarded, sort_spec, sorting_temps
from warploom.codegen.cuda.kernels.expert_problem import ExpertProblem
from warploom.codegen.cuda.kernels.expert_tiles import ExpertChoice, ExpertGemmTile, ExpertGemvTile, choices_for
from warploom.codegen.cuda.scope import Scope, Slots
from warploom.codegen.groups import input_slot
from warploom.ir.dims import DimLike
from warploom.ir.expert_patterns import PRODUCTS, Mixture, find_mixture
from warploom.ir.function import Function
from warploom.ir.rewrite import is_op
from warploom.ir.types import DType, tensor, type_of

KIND = "expert_mlp"


@dataclass(frozen=True, slots=True)
class MlpProblem:
    """out [T, n] = residual + weighted sum of `second` of `first`.

    Attributes:
        out: dtype of the result and the residual.
    """

    first: ExpertProblem
    second: ExpertProblem
    out: DType
    residual: bool


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernels of a whole mixture, or why there are none."""
    heroes = [op for op in group.ops if is_op(op, *PRODUCTS)]
    if len(heroes) != 2:
        return f"takes two products with experts, not {len(heroes)}"
    mixture = find_mixture(heroes[1])
    if isinstance(mixture, str):
        return mixture
    if len(mixture.ops) != len(group.ops) or list(group.results.values()) != [mixture.result]:
        return f"takes a mixture of experts alone, not {', '.join(op.name for op in group.ops)}"
    problem = read_mixture(mixture)
    if isinstance(problem, str):
        return problem
    reason = target.refuses(problem.first.weight.dtype) or target.refuses(problem.second.weight.dtype)
    if reason is not None:
        return reason
    choices = choices_for(problem.first, problem.second, target)
    return lower(problem, _slots(group, mixture), type_of(mixture.result).shape[0], choices, target)


def read_mixture(mixture: Mixture) -> MlpProblem | str:
    """The problem of a mixture, or why kernels do not compute it."""
    first, second = read_problem(mixture.first), read_problem(mixture.second)
    if isinstance(first, str) or isinstance(second, str):
        return first if isinstance(first, str) else str(second)
    if (first.experts, first.width) != (second.experts, second.k):
        return f"the products are of {first.experts} and {second.experts} experts"
    return MlpProblem(first, second, type_of(mixture.result).dtype, mixture.residual is not None)


def _slots(group: Function, mixture: Mixture) -> dict[str, Slots]:
    """By product, where its operands are but for what lies between."""
    first, second = mixture.first, mixture.second
    routing = {"experts": input_slot(group, first.experts), "shares": input_slot(group, mixture.shares)}
    residual = {} if mixture.residual is None else {"residual": input_slot(group, mixture.residual)}
    return {
        "first": {"x": input_slot(group, first.x), **routing, **weight_slots(group, first)},
        "second": {**routing, **weight_slots(group, second), **residual, "out": Slot("result", 0)},
    }


def lower(
    problem: MlpProblem,
    slots: dict[str, Slots],
    tokens: DimLike,
    choices: tuple[ExpertChoice, ...],
    target: CudaTarget,
) -> Match:
    """The launches of a mixture, by rising number of tokens."""
    pairs = tokens * problem.first.choices
    temps = sorting_temps(problem.first, tokens) | {
        "inner": Temp(tensor((pairs, problem.first.width), DType.BF16)),
        "each": Temp(tensor((pairs, problem.second.n), DType.BF16)),
    }
    first, second = (Scope(slots[product], {"T": str(tokens)}).with_temps(temps) for product in ("first", "second"))
    variants = (
        Variant(tuple(_launches(problem, choice, target.has_tma, first, second)), when)
        for choice, when in guarded(choices, str(tokens))
    )
    return Match(tuple(variants), tuple(temps.values()))


def _launches(problem: MlpProblem, choice: ExpertChoice, pdl: bool, first: Scope, second: Scope) -> Iterator[Step]:
    """What the first product makes is `inner`; what the second makes of each choice, before it is summed, `each`."""
    if isinstance(choice.first, ExpertGemvTile):
        assert isinstance(choice.second, ExpertGemvTile)
        yield first.step(ExpertGemvSpec(problem.first, choice.first, pdl), out="inner")
        wide = problem.second if problem.out is DType.BF16 else problem.second.wide()
        yield second.step(ExpertSumSpec(wide, choice.second, problem.residual, pdl, pdl), x="inner")
        return
    assert isinstance(choice.second, ExpertGemmTile)
    yield first.step(sort_spec(problem.first, choice.first, pdl))
    rows: Rows = "tokens" if problem.first.shared else "pairs"
    yield first.step(ExpertGemmSpec(problem.first, choice.first, rows, "places", pdl), out="inner")
    yield second.step(ExpertGemmSpec(problem.second, choice.second, "places", "pairs", pdl), x="inner", out="each")
    sum_ = CombineExpertsSpec(problem.second.n, problem.second.choices, problem.out, problem.residual, pdl)
    yield second.step(sum_, y="each")
