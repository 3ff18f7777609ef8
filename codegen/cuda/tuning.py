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
FULL = 264  # blocks that keep a large GPU busy: two for each of 132 multiprocessors


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
    tuned: Mapping[str, tuple[Choice, ...]] = table(target.arch).linear
    choices = tuned.get(key_of(problem)) or default_choices(problem, target)
    if problem.x is not DType.BF16:
        choices = tuple(_through_pointers(choice) for choice in choices)
    if target.deterministic:
        choices = tuple(_invariant(choice) for choice in choices if not isinstance(choice.tile, GemvTile))
    return choices


def _through_pointers(choice: Choice) -> Choice:
    """x that is cast on the way cannot come by TMA."""
    if isinstance(choice.tile, GemmTile) and choice.tile.tma:
        tile = msgspec.structs.replace(choice.tile, tma=False, halves=False, blocks=0)
        return msgspec.structs.replace(choice, tile=tile)
    return choice


def _invariant(choice: Choice) -> Choice:
    """One sum over all columns in order, of numbers that were rounded once: the same bits in every tile."""
    tile = choice.tile
    if isinstance(tile, SkinnyTile):
        tile = msgspec.structs.replace(tile, splits=1)
    return Choice(choice.up_to, tile, fused_norm=False)


def default_choices(problem: LinearProblem, target: CudaTarget) -> tuple[Choice, ...]:
    """Tiles by rule."""
    skinny = (Choice(tokens, _skinny(problem, tokens, target), fused_norm=tokens <= 16) for tokens in (16, 32, 64))
    large = target.shared_bytes > 200 << 10
    if large:
        few = GemmTile(128, 128, 64, num_warps=8, num_stages=4, tma=True)
        many = GemmTile(128, 256, 64, num_warps=8, num_stages=3, blocks=132, tma=True, halves=True)
    else:
        few = GemmTile(64, 128, 32, num_warps=4, num_stages=3)
        many = GemmTile(128, 128, 32, num_warps=8, num_stages=3)
    return (Choice(1, _gemv(problem), fused_norm=True), *skinny, Choice(256, few), Choice(None, many))


def _gemv(problem: LinearProblem) -> GemvTile:
    """A row a block where that gives enough bytes a block, the whole row in flight where registers allow."""
    columns = min(1024, 1 << (problem.k - 1).bit_length())
    rows = 1 if problem.k >= 2048 else 2
    return GemvTile(rows, columns, ahead=4, num_warps=2)


def _skinny(problem: LinearProblem, tokens: int, target: CudaTarget) -> SkinnyTile:
    """Split until there are blocks for the whole GPU, but not below 512 columns."""
    tiles = -(-problem.n // 64)
    splits = 1
    while tiles * splits < FULL * 2 // 3 and problem.k // (2 * splits) >= 512:
        splits *= 2
    columns = 128 if target.shared_bytes > 200 << 10 else 64
    return SkinnyTile(64, tokens, columns, num_warps=4, num_stages=4, splits=splits)
