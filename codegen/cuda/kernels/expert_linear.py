"""One product with chosen experts, with its gate if it has one: for experts that are no whole `expert_mlp`."""

from __future__ import annotations

from collections.abc import Iterator

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import CudaKernelSpec, Guard, Match, Slot, Temp, Variant
from warploom.codegen.cuda.kernels.expert_gemm import ExpertGemmSpec
from warploom.codegen.cuda.kernels.expert_gemv import ExpertGemvSpec
from warploom.codegen.cuda.kernels.expert_group import read_problem, weight_slots
from warploom.codegen.cuda.kernels.expert_problem import ExpertProblem
from warploom.codegen.cuda.kernels.expert_tiles import ExpertChoice, ExpertGemmTile, ExpertGemvTile, choices_for
from warploom.codegen.cuda.kernels.sort_experts import SortExpertsSpec
from warploom.codegen.cuda.scope import Scope, Slots
from warploom.codegen.cuda.variants import consecutive
from warploom.codegen.groups import input_slot
from warploom.ir.dims import DimLike
from warploom.ir.expert_patterns import PRODUCTS, find_product
from warploom.ir.function import Function
from warploom.ir.rewrite import is_op
from warploom.ir.types import DType, tensor, type_of
from warploom.runtime.expr import Expr

KIND = "expert_linear"


def match(group: Function, target: CudaTarget) -> Match | str:
    """The kernels of a product with experts, or why there are none."""
    heroes = [op for op in group.ops if is_op(op, *PRODUCTS)]
    product = find_product(heroes[0])
    (result,) = group.results.values()
    if len(heroes) > 1 or len(product.ops) != len(group.ops) or product.result != result:
        return f"takes one product with experts, not {', '.join(op.name for op in group.ops)}"
    problem = read_problem(product)
    if isinstance(problem, str):
        return problem
    reason = target.refuses(problem.weight.dtype)
    if reason is not None:
        return reason
    slots = {
        "x": input_slot(group, product.x),
        "experts": input_slot(group, product.experts),
        **weight_slots(group, product),
        "out": Slot("result", 0),
    }
    return lower(problem, slots, type_of(product.x).shape[0], choices_for(problem, problem, target), target)


def lower(
    problem: ExpertProblem, slots: Slots, tokens: DimLike, choices: tuple[ExpertChoice, ...], target: CudaTarget
) -> Match:
    """The launches of a product, by rising number of tokens."""
    temps = sorting_temps(problem, tokens)
    scope = Scope(slots, {"T": str(tokens)}).with_temps(temps)
    variants = (
        Variant(tuple(scope.step(spec) for spec in _kernels(problem, choice.first, target.has_tma)), when)
        for choice, when in guarded(choices, str(tokens))
    )
    return Match(tuple(variants), tuple(temps.values()))


def _kernels(problem: ExpertProblem, tile: ExpertGemvTile | ExpertGemmTile, pdl: bool) -> Iterator[CudaKernelSpec]:
    """Those of a tile, in order."""
    if isinstance(tile, ExpertGemvTile):
        yield ExpertGemvSpec(problem, tile, pdl)
        return
    yield sort_spec(problem, tile, pdl)
    yield ExpertGemmSpec(problem, tile, "tokens" if problem.shared else "pairs", "pairs", pdl)


def guarded(choices: tuple[ExpertChoice, ...], tokens: Expr) -> Iterator[tuple[ExpertChoice, Guard]]:
    """Choices with the ranges of tokens that they are for."""
    return zip(choices, consecutive(tokens, (choice.up_to for choice in choices), first=1), strict=True)


def sorting_temps(problem: ExpertProblem, tokens: DimLike) -> dict[str, Temp]:
    """What `SortExpertsSpec` makes."""
    pairs = tokens * problem.choices
    return {
        "order": Temp(tensor((pairs,), DType.I32)),
        "blocks": Temp(tensor((pairs * 3 + (3 * problem.experts + 1),), DType.I32)),
    }


def sort_spec(problem: ExpertProblem, tile: ExpertGemmTile, pdl: bool) -> SortExpertsSpec:
    """The kernel that finds the blocks of a tile."""
    return SortExpertsSpec(problem.experts, problem.choices, tile.block_t, pdl)
