"""What the reader of an asynchronous request holds: deltas as they come, merged if they come faster than read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from warploom.errors import DeadlineError, WarploomError
from warploom.runtime.output import Delta, best_deltas, merged
from warploom.runtime.sampling_params import SamplingParams


class OutputStream:
    """An async iterator of deltas. It ends after the last delta of each of the request's answers.

    Leaving it in any way but reading it to its end cancels the request: `aclose`, the end of an `async with`, a
    cancelled task, an error.

    Attributes:
        prompt_token_ids: what the model is given.
        num_answers: those that are given, with `params`: the `n` best of `num_made`.
    """

    def __init__(
        self,
        prompt_token_ids: list[int],
        num_made: int,
        params: SamplingParams | None,
        timeout_s: float | None,
        cancel: Callable[[], None],
    ) -> None:
        self.prompt_token_ids, self.num_answers = prompt_token_ids, params.n if params else num_made
        self._chosen_by = params if self.num_answers < num_made else None
        self._unmade = num_made  # answers that have not ended
        self._loop = asyncio.get_running_loop()
        self._timeout_s, self._cancel = timeout_s, cancel
        self._timer = None if timeout_s is None else self._loop.call_later(timeout_s, self._expire)
        self._unfinished = self.num_answers  # answers that have not been read to their end
        self._pending: dict[int, Delta] = {}  # by index, in order of arrival
        self._error: WarploomError | None = None
        self._has_news = False  # `_take` gives something
        self._waiter: asyncio.Future[None] | None = None  # of the reader

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where the reader runs; `push` and `fail` must be called there."""
        return self._loop

    def push(self, delta: Delta) -> None:
        """Give the reader a delta."""
        held = self._pending.get(delta.index)
        self._pending[delta.index] = delta if held is None else merged(held, delta)
        if delta.finish_reason:
            self._unmade -= 1
        if self._chosen_by:
            if self._unmade:
                return
            self._pending = {one.index: one for one in best_deltas(self._pending.values(), self._chosen_by)}
        self._tell()

    def fail(self, error: WarploomError) -> None:
        """Let the reader see an error once it has read what it was given."""
        self._error = error
        self._tell()

    async def aclose(self) -> None:
        """Cancel the request if it is unfinished."""
        self._close()

    def __aiter__(self) -> OutputStream:
        return self

    async def __anext__(self) -> Delta:
        """Return the next delta.

        Raises:
            DeadlineError: the time is over. EngineDeadError: the device failed.
        """
        if self._unfinished == 0:
            raise StopAsyncIteration
        if not self._has_news:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            except BaseException:
                self._close()
                raise
            finally:
                self._waiter = None
        return self._take()

    async def __aenter__(self) -> OutputStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _take(self) -> Delta:
        if not self._pending or (self._error is not None and self._unmade and self._chosen_by):
            assert self._error is not None
            self._close()
            raise self._error
        delta = self._pending.pop(next(iter(self._pending)))
        if delta.finish_reason:
            self._unfinished -= 1
            if not self._unfinished:
                self._stop_timer()
        self._has_news = bool(self._pending or self._error)
        return delta

    def _tell(self) -> None:
        self._has_news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _expire(self) -> None:
        self.fail(DeadlineError("The request was not finished in time", expected=f"an end within {self._timeout_s} s"))

    def _close(self) -> None:
        self._stop_timer()
        if self._unfinished:
            self._unfinished = 0
            self._cancel()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
