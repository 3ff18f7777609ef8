"""How much a device takes in one step, and how much memory that leaves for the KV cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from warploom.errors import ArtifactError, DeviceError, EngineError
from warploom.runtime.compiled_limit import compiled_limit
from warploom.runtime.cuda.driver import Driver
from warploom.runtime.cuda.memory import DeviceMemory
from warploom.runtime.expr import evaluate, names
from warploom.runtime.manifest import KVInfo
from warploom.runtime.plan import DimRange, Entry

DEFAULT_MAX_TOKENS = 8192
DEFAULT_MAX_SEQS = 256
DEFAULT_MEMORY_FRACTION = 0.92
CHEAP_TOKENS = 64  # see `Device`
_CACHE_PAGES = "C"


def step_limits(
    max_pages: int, entries: Mapping[str, Entry], max_tokens: int | None, max_seqs: int | None, num_drafts: int
) -> dict[str, int]:
    """Return the largest value of every dim; of C, the pages of the cache, as many as could be in use at once.

    Args:
        max_pages: of one sequence.
        num_drafts: that a sequence may bring to a step beside its last token. Every one has a row of logits, and a
            sequence of its own in the graphs, where S is T.

    Raises:
        EngineError: a limit is outside what was compiled.
    """
    step, sample = entries["step"].dims, entries["sample"].dims
    tokens = compiled_limit("max_num_batched_tokens", max_tokens, DEFAULT_MAX_TOKENS, step["T"])
    seqs = compiled_limit("max_num_seqs", max_seqs, min(DEFAULT_MAX_SEQS, tokens), step["S"])
    if seqs > tokens:
        raise EngineError(
            "A step must have a token for each sequence",
            expected=f"max_num_seqs of at most max_num_batched_tokens, {tokens}",
            found=str(seqs),
        )
    pages = min(max_pages, step["P"].max)
    rows = min(max(seqs, min(seqs * (1 + num_drafts), CHEAP_TOKENS)), tokens, step["S"].max, step["R"].max)
    return {
        "T": tokens,
        "S": rows,
        "R": rows,
        "P": pages,
        _CACHE_PAGES: seqs * pages,
        **{name: known.max for name, known in sample.items() if name != "R"},
    }


def scratch_bytes(name: str, entry: Entry, limits: Mapping[str, int]) -> int:
    """Return the bytes of an entry's scratch arena; ArtifactError if they depend on the size of the cache."""
    if _CACHE_PAGES in names(entry.arena_bytes):
        raise ArtifactError(
            f"The scratch memory of @{name} grows with the KV cache",
            expected="the cache to be updated in place",
            found=f"{entry.arena_bytes} bytes",
            fix="compile the model again; if it recurs, report it",
        )
    return evaluate(entry.arena_bytes, limits)


class CacheBudget(NamedTuple):
    """Memory for the KV cache: `kv_bytes`, or if that is None, what `memory_fraction` of the GPU's memory leaves."""

    kv_bytes: int | None
    memory_fraction: float


def num_cache_pages(
    driver: Driver, memory: DeviceMemory, kv: KVInfo, compiled: DimRange, most_used: int, budget: CacheBudget
) -> int:
    """Return how many pages the cache gets, when all else has been allocated.

    Args:
        most_used: pages that can be in use at once.

    Raises:
        EngineError: the fraction is not one.
        DeviceError: there is no room for a single page.
    """
    fraction = budget.memory_fraction
    if not 0 < fraction <= 1:
        raise EngineError("memory_fraction is not possible", expected="above 0, at most 1", found=str(fraction))
    free, total = driver.memory()
    num_bytes = int(free - (1 - fraction) * total) if budget.kv_bytes is None else budget.kv_bytes
    num_pages = min(num_bytes // kv.bytes_per_page, most_used, compiled.max)
    num_pages -= num_pages % compiled.multiple_of
    if num_pages < max(1, compiled.min):
        raise _no_room(memory, kv.bytes_per_page * max(1, compiled.min), num_bytes)
    return num_pages


def _no_room(memory: DeviceMemory, needed: int, budget: int) -> DeviceError:
    error = memory.error("the KV cache", needed)
    return DeviceError(
        error.what,
        expected=f"at least {needed} bytes",
        found=f"{max(0, budget)} bytes to give; {error.found}",
        fix=error.fix,
    )
