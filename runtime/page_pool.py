"""The pages of the KV cache: who holds which, which keep a known prefix, and when one may be written again.

    held ──last reference dropped──► fenced ──the steps that may touch it have ended──► kept or free
      ▲                                │ a prefix is found again                           │
      └────────────────────────────────┴───────────────────────────────────────────────────┘

A page full of known tokens can be *remembered*: under the serial number of the page before it (for the first page,
the salt of its tenant) and its own tokens. The key holds the tokens themselves, so that finding is comparing: two
different prefixes never meet, whatever they hash to. (vLLM and nano-vllm chain hashes; serial numbers of exact chains
do without the hash's promise.) A remembered page that nobody holds is kept until its place is needed: those of the
least important requests go first, of them the least recently used.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from enum import Enum
from itertools import count
from typing import TypeAlias

Link: TypeAlias = int | str  # the serial number of a remembered page, or the salt that a chain starts from
_Key: TypeAlias = tuple[Link, bytes]


class _State(Enum):
    HELD = "held"
    FENCED = "fenced"
    KEPT = "kept"
    FREE = "free"


class PagePool:
    """Reference-counted pages. A freed page is the next one given out, which keeps the touched memory small.

    Attributes:
        launched, ended: numbers of the last step that was launched, and of the last that is known to have ended.
    """

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self.launched = self.ended = 0
        self.ref_counts = [0] * num_pages
        self._states = [_State.FREE] * num_pages
        self._free = list(range(num_pages - 1, -1, -1))
        self._fenced: deque[tuple[int, int]] = deque()  # step, page
        self._fences = [0] * num_pages  # the last step that may touch the page, when it is fenced
        self._kept: dict[int, OrderedDict[int, None]] = {}  # by priority: pages, the least recently used first
        self._num_kept = 0
        self._priorities = [0] * num_pages
        self._keys: list[_Key | None] = [None] * num_pages
        self._serials = [0] * num_pages
        self._remembered: dict[_Key, int] = {}
        self._numbers = count(1)

    @property
    def num_available(self) -> int:
        """Pages that `take` can give now."""
        return len(self._free) + self._num_kept

    @property
    def num_held(self) -> int:
        """Pages with a reference, or that a step in flight may touch."""
        return self.num_pages - self.num_available

    def take(self) -> int:
        """Return a page referenced once, forgetting the prefix it kept; IndexError if there is none."""
        page = self._free.pop() if self._free else self._evict()
        self._states[page] = _State.HELD
        self.ref_counts[page] = 1
        return page

    def find(self, link: Link, tokens: bytes) -> int | None:
        """Return the page that keeps `tokens` (the bytes of its i32 ids) after the prefix of `link`."""
        return self._remembered.get((link, tokens))

    def serial(self, page: int) -> int:
        """Return the link to the prefix that ends with a remembered page."""
        return self._serials[page]

    def share(self, page: int) -> None:
        """Take one more reference to a remembered page."""
        if self._states[page] is _State.KEPT:
            self._unkeep(page)
        self._states[page] = _State.HELD
        self.ref_counts[page] += 1

    def remember(self, page: int, link: Link, tokens: bytes) -> int:
        """Note what a full, held page holds, and return the link to the prefix that it ends.

        If another page keeps the same prefix, that one stays the one to be found.
        """
        key = link, tokens
        found = self._remembered.get(key)
        if found is None:
            self._remembered[key] = found = page
            self._keys[page] = key
            self._serials[page] = next(self._numbers)
        return self._serials[found]

    def dead_link(self) -> Link:
        """Return a link to a prefix that is never found."""
        return next(self._numbers)

    def release(self, page: int, priority: int = 0) -> None:
        """Drop one reference; the last one frees the page once no step in flight can touch it.

        Args:
            priority: of who held it, smaller is more important: how long a prefix is kept.
        """
        self.ref_counts[page] -= 1
        if self.ref_counts[page]:
            return
        self._priorities[page] = priority
        if self.ended == self.launched:
            self._settle(page)
        else:
            self._states[page] = _State.FENCED
            self._fences[page] = self.launched
            self._fenced.append((self.launched, page))

    def end_steps(self, step: int) -> None:
        """Note that all steps up to number `step` have ended."""
        self.ended = step
        while self._fenced and self._fenced[0][0] <= step:
            fence, page = self._fenced.popleft()
            if self._states[page] is _State.FENCED and self._fences[page] == fence:
                self._settle(page)

    def forget_all(self) -> None:
        """Forget every prefix, because what pages hold has become uncertain."""
        for pages in self._kept.values():
            for page in pages:
                self._states[page] = _State.FREE
                self._free.append(page)
        self._kept.clear()
        self._num_kept = 0
        self._remembered.clear()
        self._keys = [None] * self.num_pages

    def check(self, references: list[int]) -> None:
        """Assert that exactly `references` (with repeats) are held and every other page is accounted for, once."""
        counts = [0] * self.num_pages
        for page in references:
            counts[page] += 1
        assert counts == self.ref_counts, "a page's references differ from its count"
        kept = [page for pages in self._kept.values() for page in pages]
        fenced = {page for _, page in self._fenced if self._states[page] is _State.FENCED}
        places = {_State.FREE: self._free, _State.KEPT: kept, _State.FENCED: list(fenced)}
        places[_State.HELD] = [page for page, references_ in enumerate(counts) if references_]
        for state, pages in places.items():
            assert sorted(pages) == [page for page, one in enumerate(self._states) if one is state], state
        assert len(kept) == self._num_kept
        assert all(self._kept.values()), "a priority without pages"
        keyed = {key: page for page, key in enumerate(self._keys) if key is not None}
        assert keyed == self._remembered, "remembered prefixes"
        assert all(self._keys[page] is not None for page in kept), "a page is kept for nothing"
        assert all(self._keys[page] is None for page in self._free), "a free page has a prefix"

    def _settle(self, page: int) -> None:
        """Put a page that nothing touches any more where it can be taken from."""
        if self._keys[page] is None:
            self._states[page] = _State.FREE
            self._free.append(page)
        else:
            self._states[page] = _State.KEPT
            self._kept.setdefault(self._priorities[page], OrderedDict())[page] = None
            self._num_kept += 1

    def _unkeep(self, page: int) -> None:
        priority = self._priorities[page]
        del self._kept[priority][page]
        if not self._kept[priority]:
            del self._kept[priority]
        self._num_kept -= 1

    def _evict(self) -> int:
        """Return a kept page, whose prefix is forgotten."""
        if not self._num_kept:
            raise IndexError("no page is free")
        page = next(iter(self._kept[max(self._kept)]))
        self._unkeep(page)
        key = self._keys[page]
        assert key is not None
        del self._remembered[key]
        self._keys[page] = None
        return page
