"""Drafts by a smaller model of the same vocabulary (Leviathan et al. 2023, https://arxiv.org/abs/2211.17192).

It has a device and a KV cache of its own, whose pages it shares by prefix as the large model's are; nothing depends on
what is in it but how good drafts are. Before it drafts, it computes what it has not seen of a sequence; then a step per
draft, each fed with the last one's token on the device, while the host plans the next.

Its tokens are drawn with the noise that the large model's will be drawn with, of the same seed at the same position:
see `runtime/speculation.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from warploom.runtime.device import Device
from warploom.runtime.kv_cache import KVCache
from warploom.runtime.request import Request
from warploom.runtime.sampler_inputs import SamplerTable
from warploom.runtime.step_batch import StepBatch, counting, lay_out_pieces

I32 = NDArray[np.int32]
_DEPTH = 2  # steps unread at once


class Drafter(NamedTuple):
    """A model that drafts.

    Attributes:
        max_context: most tokens of a sequence.
    """

    device: Device
    max_context: int


@dataclass(eq=False, slots=True)
class _Sequence:
    """A request in the draft model's cache.

    Attributes:
        computed: tokens whose K and V are there; the last of them may be drafts.
        length: of the request when it was drafted for the last time; drafts: what was drafted then.
    """

    request: Request
    row: int
    computed: int
    length: int
    drafts: list[int] = field(default_factory=list)

    @property
    def lag(self) -> int:
        """Tokens that have not been computed."""
        return len(self.request.token_ids) - self.computed

    def next_tokens(self, count: int) -> list[int]:
        """Return the tokens to compute; 0 for a draft that only the device knows."""
        begin = self.computed - len(self.request.token_ids)
        if begin < 0:
            return self.request.token_ids[self.computed : self.computed + count]
        return [self.drafts[begin] if begin < len(self.drafts) else 0]

    def settle(self) -> None:
        """Forget drafts that were not accepted, and the last token: it says what comes next."""
        tokens = self.request.token_ids
        accepted = 0
        for draft, token in zip(self.drafts, tokens[self.length :], strict=False):
            if draft != token:
                break
            accepted += 1
        self.computed = self.length = min(self.computed, self.length + accepted, len(tokens) - 1)
        self.drafts = []


class _Flight(NamedTuple):
    """A step under way, and the rows of its result that are drafts of sequences."""

    ticket: Any
    sequences: list[_Sequence]
    rows: I32


class DraftModel:
    """Drafts for running requests of a scheduler whose sampling is in `sampler`."""

    def __init__(self, drafter: Drafter, sampler: SamplerTable) -> None:
        self._device, self._sampler, self._max_context = drafter.device, sampler, drafter.max_context
        max_pages = -(-drafter.max_context // drafter.device.page_size)
        device = drafter.device
        self._kv_cache = KVCache(device.num_pages, device.page_size, device.max_seqs, max_pages)
        self._sequences: dict[int, _Sequence] = {}  # by request, the least recently used first

    def can_draft(self, request: Request) -> bool:
        """Whether the request fits in its context."""
        return len(request.token_ids) < self._max_context

    def draft(self, wanted: Sequence[tuple[Request, int]]) -> list[list[int]]:
        """Return drafts for running requests; fewer than wanted, or none, where its cache is too small."""
        for sequence in [one for one in self._sequences.values() if one.request.is_done]:
            self._close(sequence)
        asked = {request.id for request, _ in wanted}
        opened = [(self._open(request, number, asked), number) for request, number in wanted]
        going = sorted(((one, number) for one, number in opened if one), key=lambda pair: -pair[1])
        if going:
            rows = np.array([one.request.row for one, _ in going], np.int32)
            waits = bool(self._sampler.needs_tokens.take(rows).any())
            self._catch_up([one for one, _ in going], waits)
            self._sample(going, waits)
        return [one.drafts if one else [] for one, _ in opened]

    def _open(self, request: Request, number: int, asked: set[int]) -> _Sequence | None:
        """Return a request's sequence with room for drafts, or None if there is none."""
        needed = len(request.token_ids) + number - 1  # the last draft is not computed
        if needed > self._max_context:
            return None
        sequence = self._sequences.pop(request.id, None)
        while True:
            if sequence is None:
                sequence = self._admitted(request, needed)
            if sequence is not None and self._kv_cache.grow(sequence.row, needed):
                sequence.settle()
                self._sequences[request.id] = sequence
                return sequence
            victim = next((one for one in self._sequences.values() if one.request.id not in asked), None)
            if victim is None:
                break
            self._close(victim)
        if sequence is not None:
            self._kv_cache.close(sequence.row)
        return None

    def _admitted(self, request: Request, needed: int) -> _Sequence | None:
        prefix = self._kv_cache.find_prefix(request.token_ids, request.cache_salt)
        row = self._kv_cache.open(needed, prefix, request.cache_salt, request.priority)
        known = len(prefix) * self._kv_cache.page_size
        return None if row is None else _Sequence(request, row, known, known)

    def _close(self, sequence: _Sequence) -> None:
        del self._sequences[sequence.request.id]
        self._kv_cache.close(sequence.row)

    def _catch_up(self, sequences: Sequence[_Sequence], waits: bool) -> None:
        """Compute what sequences lack, but for the last token or two: what the first step of drafts can take."""
        device = self._device
        spare = 2 if not waits and 2 * len(sequences) <= min(device.max_tokens, device.max_rows) else 1
        while behind := [one for one in sequences if one.lag > spare]:
            pieces: list[tuple[_Sequence, int]] = []
            budget = device.max_tokens
            for one in behind:
                count = min(one.lag - 1, budget)
                if count:
                    pieces.append((one, count))
                    budget -= count
            device.result(device.launch(self._batch(pieces, samples=False)))
            for one, count in pieces:
                one.computed += count
                self._kv_cache.remember(one.row, one.request.token_ids, one.computed)

    def _sample(self, going: Sequence[tuple[_Sequence, int]], waits: bool) -> None:
        """Draft for sequences, the one that wants most first.

        Args:
            waits: for every draft, before the next is sampled: sampling depends on it.
        """
        sequences = [one for one, _ in going]
        for one in sequences:
            one.length = len(one.request.token_ids)
        flights: deque[_Flight] = deque()
        sources: I32 | None = None
        for place in range(going[0][1]):
            active = [one for one, number in going if number > place and (not waits or len(one.drafts) == place)]
            if not active:
                break
            batch = self._batch([(one, 1 if place else one.lag) for one in active], samples=True)
            ticket = self._device.launch(batch, None if sources is None else sources[: len(active)])
            for one in active:
                one.computed += 1 if place else one.lag
            rows = batch.query_start[1:] - np.int32(1)
            flights.append(_Flight(ticket, active, rows))
            sources = None if waits else rows
            while len(flights) == _DEPTH or (waits and flights):
                self._read(flights.popleft())
            if waits:
                for one in active:
                    one.drafts = self._sampler.allowed(one.request, one.drafts)
        while flights:
            self._read(flights.popleft())

    def _read(self, flight: _Flight) -> None:
        tokens = self._device.result(flight.ticket).tokens.tolist()
        for one, row in zip(flight.sequences, flight.rows.tolist(), strict=True):
            one.drafts.append(tokens[row])

    def _batch(self, pieces: Sequence[tuple[_Sequence, int]], samples: bool) -> StepBatch:
        """The next tokens of sequences, so many of each; all are sampled behind, or none."""
        counts = np.array([count for _, count in pieces], np.int32)
        starts = np.array([one.computed for one, _ in pieces], np.int32)
        rows = np.array([one.row for one, _ in pieces], np.int32)
        layout = lay_out_pieces(rows, starts, counts, self._kv_cache)
        tokens = [token for one, count in pieces for token in one.next_tokens(count)]
        sampling = None
        if samples:
            own = np.repeat(np.array([one.request.row for one, _ in pieces], np.int32), counts)
            drafts = [tuple(one.drafts) for one, count in pieces for _ in range(count)]
            sampling = self._sampler.gather(own, layout.positions + np.int32(1), drafts)
        return StepBatch(
            np.array(tokens, np.int32),
            *layout[1:],
            logit_rows=counting(len(tokens) if samples else 0),
            sampling=sampling,
            top_logprobs=False,
        )
