"""The tiles of linear layers: from `codegen/tuning/<arch>.json`, which tuning on a GPU writes, or by rule."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.default_tiles import default_choices
from warploom.codegen.cuda.invariant_tiles import invariant
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.kernels.tiles import Choice, Tile, WarpTile
from warploom.codegen.cuda.kernels.warp_gemm import warps_take
from warploom.codegen.cuda.layer_key import key_of
from warploom.codegen.cuda.nearest import fitted, nearest
from warploom.codegen.cuda.variants import NO_END
from warploom.ir.types import DType

TUNING = Path(__file__).parents[1] / "tuning"


class Table(msgspec.Struct, forbid_unknown_fields=True):
    """A tuning file: by `LayerKey` of a linear layer, choices by rising `up_to`."""

    linear: dict[str, tuple[Choice, ...]] = {}


@cache
def table(arch: str) -> Table:
    """The tuning file of an architecture; an architecture without one has an empty table."""
    path = TUNING / f"{arch}.json"
    return msgspec.json.decode(path.read_bytes(), type=Table) if path.exists() else Table()


def choices_for(problem: LinearProblem, target: CudaTarget) -> tuple[Choice, ...]:
    """The tiles of a problem by rising number of tokens; the last choice has no end."""
    if target.deterministic and problem.weight.dtype is not DType.BF16:
        return default_choices(problem, target)[-1:]
    same = problem.x is not DType.F32 or problem.norm is not None  # a norm makes bf16 of f32
    tuned: Mapping[str, tuple[Choice, ...]] = table(target.arch).linear if same else {}
    choices = tuned.get(key_of(problem), ())
    if not choices or not all(_takes(choice.tile, problem) for choice in choices):
        choices = _untuned(problem, tuned, target)
    return tuple(invariant(problem, choices, target)) if target.deterministic else choices


def _takes(tile: Tile, problem: LinearProblem) -> bool:
    """Whether a tile is one for this problem too: it may differ from the tuned one in what its key leaves out."""
    return not isinstance(tile, WarpTile) or warps_take(problem)


def _untuned(problem: LinearProblem, tuned: Mapping[str, tuple[Choice, ...]], target: CudaTarget) -> tuple[Choice, ...]:
    """Tiles of the nearest layer that was tuned, by rule where they do not fit or nothing is near."""
    rules = default_choices(problem, target)
    near = nearest(problem, tuned)
    return rules if near is None else tuple(_fitted(problem, near, choice, rules) for choice in tuned[near])


def _fitted(problem: LinearProblem, near: str, choice: Choice, rules: tuple[Choice, ...]) -> Choice:
    tile = fitted(problem, near, choice.tile)
    if tile is not None:
        return msgspec.structs.replace(choice, tile=tile)
    end = NO_END if choice.up_to is None else choice.up_to
    rule = next(rule for rule in rules if rule.up_to is None or end <= rule.up_to)
    return msgspec.structs.replace(rule, up_to=choice.up_to)
