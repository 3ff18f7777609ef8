"""The paged KV cache as bookkeeping: which pages each running sequence has.

    row 0: [ 7 | 3 | 9 | 0 | 0 ]    page_table[row, i] holds tokens i*page_size .. (i+1)*page_size - 1
    row 1: [ 7 | 1 | 0 | 0 | 0 ]    unused entries are 0 (a valid page, never read); page 7 is a shared prefix

Nothing here touches a device. A sequence keeps its row for as long as it runs, so that tables indexed by row need
no copying between steps. Row contents only grow until the row is closed. A shared page is full, and nobody writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from warploom.runtime.page_pool import Link, PagePool

I32 = NDArray[np.int32]


@dataclass(slots=True)
class _Row:
    """The pages of one sequence; the first `num_remembered` can be found, and `link` is that of the last of them."""

    pages: list[int]
    priority: int
    link: Link
    num_remembered: int


class KVCache:
    """Rows of pages for up to `max_seqs` sequences.

    Attributes:
        page_table: [max_seqs, max_pages] i32; only this class writes it.
        capacity: [max_seqs] i32, tokens that the pages of each row hold; 0 for rows that are not in use.
    """

    def __init__(self, num_pages: int, page_size: int, max_seqs: int, max_pages: int) -> None:
        self.page_size = page_size
        self.pool = PagePool(num_pages)
        self.page_table: I32 = np.zeros((max_seqs, max_pages), np.int32)
        self.capacity: I32 = np.zeros(max_seqs, np.int32)
        self._max_pages = max_pages
        self._rows: dict[int, _Row] = {}
        self._free_rows = list(range(max_seqs - 1, -1, -1))

    @property
    def max_tokens(self) -> int:
        """Tokens that one sequence can hold when it is alone."""
        return min(self.pool.num_pages, self._max_pages) * self.page_size

    @property
    def rows(self) -> set[int]:
        """The rows in use."""
        return set(self._rows)

    @property
    def has_free_row(self) -> bool:
        """Whether another sequence can be opened, if there are pages."""
        return bool(self._free_rows)

    def num_pages_for(self, num_tokens: int) -> int:
        """Return how many pages hold `num_tokens` tokens."""
        return -(-num_tokens // self.page_size)

    def find_prefix(self, token_ids: Sequence[int], salt: str) -> list[int]:
        """Return the pages that keep the longest known prefix, which is shorter than `token_ids`."""
        size, pages = self.page_size, list[int]()
        tokens = np.array(token_ids[: (len(token_ids) - 1) // size * size], np.int32).tobytes()
        link: Link = salt
        for start in range(0, len(tokens), 4 * size):
            page = self.pool.find(link, tokens[start : start + 4 * size])
            if page is None:
                break
            pages.append(page)
            link = self.pool.serial(page)
        return pages

    def open(self, num_tokens: int, prefix: Sequence[int] = (), salt: str = "", priority: int = 0) -> int | None:
        """Start a sequence with room for `num_tokens`; return its row, or None (and nothing taken) if full.

        Args:
            prefix: pages from `find_prefix`, which the sequence shares.
        """
        if not self._free_rows:
            return None
        for page in prefix:
            self.pool.share(page)
        if self.num_pages_for(num_tokens) - len(prefix) > self.pool.num_available:
            for page in reversed(prefix):
                self.pool.release(page, priority)
            return None
        row = self._free_rows.pop()
        link: Link = self.pool.serial(prefix[-1]) if prefix else salt
        self._rows[row] = _Row(list(prefix), priority, link, len(prefix))
        self.page_table[row, : len(prefix)] = prefix
        self.capacity[row] = len(prefix) * self.page_size
        self.grow(row, num_tokens)
        return row

    def grow(self, row: int, num_tokens: int) -> bool:
        """Make room for `num_tokens` in all; return False (and take nothing) if there are too few free pages."""
        pages = self._rows[row].pages
        missing = self.num_pages_for(num_tokens) - len(pages)
        if missing > self.pool.num_available:
            return False
        for _ in range(missing):
            self.page_table[row, len(pages)] = page = self.pool.take()
            pages.append(page)
        self.capacity[row] = len(pages) * self.page_size
        return True

    def remember(self, row: int, token_ids: Sequence[int], num_computed: int) -> None:
        """Let others find the pages of a row that are full of tokens whose K and V are in the cache for certain.

        Args:
            token_ids: of the sequence; the first `num_computed` are in the cache.
        """
        held, size = self._rows[row], self.page_size
        for index in range(held.num_remembered, num_computed // size):
            tokens = np.array(token_ids[index * size : (index + 1) * size], np.int32).tobytes()
            held.link = self.pool.remember(held.pages[index], held.link, tokens)
            held.num_remembered += 1

    def num_remembered(self, row: int) -> int:
        """Return how many pages of a row can be found."""
        return self._rows[row].num_remembered

    def close(self, row: int) -> None:
        """End the sequence and give its pages back, the last one first."""
        held = self._rows.pop(row)
        self.page_table[row, : len(held.pages)] = 0
        self.capacity[row] = 0
        for page in reversed(held.pages):
            self.pool.release(page, held.priority)
        self._free_rows.append(row)

    def forget_prefixes(self) -> None:
        """Let no sequence find any page that is known so far; see `PagePool.forget_all`."""
        self.pool.forget_all()
        for held in self._rows.values():
            held.num_remembered = len(held.pages)
            held.link = self.pool.dead_link()

    def check(self) -> None:
        """Assert that every page is free or owned, and that the tables say the same as the lists."""
        self.pool.check([page for held in self._rows.values() for page in held.pages])
        assert sorted([*self._rows, *self._free_rows]) == list(range(len(self.page_table))), "rows"
        for row, table in enumerate(self.page_table.tolist()):
            pages = self._rows[row].pages if row in self._rows else []
            assert table == pages + [0] * (len(table) - len(pages)), f"page table of row {row}"
            assert self.capacity[row] == len(pages) * self.page_size, f"capacity of row {row}"
