"""Tile choices: from `codegen/tuning/<arch>.json`, which tuning on a GPU writes, or by rule where it has none."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.cuda.kernels.tiles import Choice, GemmTile, GemvTile, SkinnyTile
from warploom.ir.types import DType

TUNING = Path(__file__).parents[1] / "tuning"
FULL = 96  # blocks that keep most of a large GPU busy


class Table(msgspec.Struct, forbid_unknown_fields=True):
    """A tuning file: by `key_of` a linear layer, choices by rising `up_to`."""

    linear: dict[str, tuple[Choice, ...]] = {}


def key_of(problem: LinearProblem) -> str:
    """What of a problem its best tiles depend on: `28672x4096_rms_swiglu`."""
    norm = "_rms" if problem.norm is not None else ""
    return f"{problem.n}x{problem.k}{norm}{f'_{problem.epilogue}' if problem.epilogue else ''}"


@cache
def table(arch: str) -> Table:
    """The tuning file of an architecture; an architecture without one has an empty table."""
    path = TUNING / f"{arch}.json"
    return msgspec.json.decode(path.read_bytes(), type=Table) if path.exists() else Table()


def choices_for(problem: LinearProblem, target: CudaTarget) -> tuple[Choice, ...]:
    """The tiles of a problem by rising number of tokens; the last choice has no end."""
    tuned: Mapping[str, tuple[Choice, ...]] = table(target.arch).linear if problem.x is DType.BF16 else {}
    choices = tuned.get(key_of(problem)) or default_choices(problem, target)
    if target.deterministic:
        choices = tuple(_invariant(choice) for choice in choices if not isinstance(choice.tile, GemvTile))
    return choices


def _invariant(choice: Choice) -> Choice:
    """One sum over all columns in order, of numbers that were rounded once: the same bits in every tile."""
    tile = choice.tile
    if isinstance(tile, SkinnyTile):
        tile = msgspec.structs.replace(tile, splits=1)
    return Choice(choice.up_to, tile, fused_norm=False)


def default_choices(problem: LinearProblem, target: CudaTarget) -> tuple[Choice, ...]:
    """Tiles by rule."""
    has_norm = problem.norm is not None
    skinny = [Choice(t, _skinny(problem, t, target), fused_norm=has_norm and t <= 16) for t in (16, 32, 64)]
    few, many = _gemms(problem, target)
    return (Choice(1, _gemv(problem), fused_norm=has_norm), *skinny, Choice(512, few), Choice(None, many))


def _gemv(problem: LinearProblem) -> GemvTile:
    """Long rows: a few a block, so that many bytes are in flight. Short rows: many blocks."""
    if problem.k >= 2048:
        return GemvTile(2, 1024, ahead=2 if problem.epilogue == "swiglu" else 4, num_warps=4)
    return GemvTile(2, 512, ahead=2, num_warps=2)


def _skinny(problem: LinearProblem, tokens: int, target: CudaTarget) -> SkinnyTile:
    """Split until there are blocks for most of the GPU, but not below 512 columns."""
    tiles = -(-problem.n // 64)
    splits = 1
    while tiles * splits < FULL and problem.k // (2 * splits) >= 512:
        splits *= 2
    if target.has_tma and problem.operands_by_tma and _is_large(target):
        return SkinnyTile(64, tokens, 128, num_warps=4, num_stages=4, splits=splits, ahead=2, tma=True)
    return SkinnyTile(64, tokens, 64, num_warps=4, num_stages=3, splits=splits)


def _gemms(problem: LinearProblem, target: CudaTarget) -> tuple[GemmTile, GemmTile]:
    """Tiles for few hundred tokens, and for more."""
    if not _is_large(target):
        return GemmTile(64, 128, 32, num_warps=4, num_stages=3), GemmTile(128, 128, 32, num_warps=8, num_stages=3)
    if not (target.has_tma and problem.operands_by_tma):
        return GemmTile(64, 128, 64, num_warps=4, num_stages=3), GemmTile(128, 128, 64, num_warps=8, num_stages=3)
    few = GemmTile(64, 128, 64, num_warps=4, num_stages=4, tma=True)
    if problem.n < 4096 or problem.out is DType.F32:
        return few, GemmTile(128, 128, 64, num_warps=8, num_stages=3, tma=True)
    return few, GemmTile(128, 256, 64, num_warps=8, num_stages=3, blocks=132, tma=True, halves=True)


def _is_large(target: CudaTarget) -> bool:
    """Whether blocks have the shared memory of a data centre's GPU."""
    return target.shared_bytes > 128 << 10
