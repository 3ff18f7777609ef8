"""The paged KV cache as bookkeeping: which pages are free, and which pages each running sequence owns.

    row 0: [ 7 | 3 | 9 | 0 | 0 ]    page_table[row, i] holds tokens i*page_size .. (i+1)*page_size - 1
    row 1: [ 1 | 0 | 0 | 0 | 0 ]    unused entries are 0 (a valid page, never read)
    free : 8, 6, 5, 4, 2, 0

Nothing here touches a device. A sequence keeps its row for as long as it runs, so that tables indexed by row need
no copying between steps. Row contents only grow until the row is closed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class PagePool:
    """Reference-counted pages. A freed page is the next one given out, which keeps the touched memory small."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.ref_counts = [0] * num_pages
        self._free = list(range(num_pages - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Pages that `take` can give."""
        return len(self._free)

    def take(self) -> int:
        """Return a free page, referenced once; IndexError if there is none."""
        page = self._free.pop()
        self.ref_counts[page] = 1
        return page

    def release(self, page: int) -> None:
        """Drop one reference; the last one frees the page."""
        self.ref_counts[page] -= 1
        if self.ref_counts[page] == 0:
            self._free.append(page)

    def check(self, references: list[int]) -> None:
        """Assert that exactly `references` (with repeats) are held and every other page is free, once."""
        counts = [0] * self.num_pages
        for page in references:
            counts[page] += 1
        assert counts == self.ref_counts, "a page's references differ from its count"
        assert sorted(self._free) == [page for page, count in enumerate(counts) if count == 0], "free list"


class KVCache:
    """Rows of pages for up to `max_seqs` sequences.

    Attributes:
        page_table: [max_seqs, max_pages] i32, shared with the step batch; only this class writes it.
    """

    def __init__(self, num_pages: int, page_size: int, max_seqs: int, max_pages: int) -> None:
        self.page_size = page_size
        self.pool = PagePool(num_pages)
        self.page_table: NDArray[np.int32] = np.zeros((max_seqs, max_pages), np.int32)
        self._max_pages = max_pages
        self._pages: dict[int, list[int]] = {}
        self._free_rows = list(range(max_seqs - 1, -1, -1))

    @property
    def max_tokens(self) -> int:
        """Tokens that one sequence can hold when it is alone."""
        return min(self.pool.num_pages, self._max_pages) * self.page_size

    @property
    def rows(self) -> set[int]:
        """The rows in use."""
        return set(self._pages)

    def capacity(self, row: int) -> int:
        """Return how many tokens the pages of `row` hold."""
        return len(self._pages[row]) * self.page_size

    def num_pages_for(self, num_tokens: int) -> int:
        """Return how many pages hold `num_tokens` tokens."""
        return -(-num_tokens // self.page_size)

    def open(self, num_tokens: int) -> int | None:
        """Start a sequence with room for `num_tokens`; return its row, or None (and nothing taken) if full."""
        if not self._free_rows or self.num_pages_for(num_tokens) > self.pool.num_free:
            return None
        row = self._free_rows.pop()
        self._pages[row] = []
        self.grow(row, num_tokens)
        return row

    def grow(self, row: int, num_tokens: int) -> bool:
        """Make room for `num_tokens` in all; return False (and take nothing) if there are too few free pages."""
        pages = self._pages[row]
        missing = self.num_pages_for(num_tokens) - len(pages)
        if missing > self.pool.num_free:
            return False
        for _ in range(missing):
            self.page_table[row, len(pages)] = page = self.pool.take()
            pages.append(page)
        return True

    def close(self, row: int) -> None:
        """End the sequence and give its pages back, the last one first."""
        pages = self._pages.pop(row)
        self.page_table[row, : len(pages)] = 0
        for page in reversed(pages):
            self.pool.release(page)
        self._free_rows.append(row)

    def check(self) -> None:
        """Assert that every page is free or owned, and that the table says the same as the lists."""
        self.pool.check([page for pages in self._pages.values() for page in pages])
        assert sorted([*self._pages, *self._free_rows]) == list(range(len(self.page_table))), "rows"
        for row, table in enumerate(self.page_table.tolist()):
            pages = self._pages.get(row, [])
            assert table == pages + [0] * (len(table) - len(pages)), f"page table of row {row}"
