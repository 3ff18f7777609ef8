"""The thread that owns an engine: commands in through one queue, the outputs of steps out through another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

from warploom.runtime.engine import Engine
from warploom.runtime.engine_stats import EngineStats
from warploom.runtime.request import Request
from warploom.runtime.step_outputs import RequestOutput


@dataclass(frozen=True, slots=True)
class EngineEnd:
    """No step follows; `error`: because of it, or None if the thread was stopped."""

    error: BaseException | None


class EngineThread:
    """Runs an engine until `stop`, or until a step fails."""

    def __init__(self, engine: Engine) -> None:
        self._outputs: SimpleQueue[list[RequestOutput] | EngineEnd] = SimpleQueue()
        self._engine = engine
        self._commands: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="warploom-engine", daemon=True)
        self._thread.start()

    def add(self, request: Request) -> None:
        """Queue a request."""
        self._commands.put(lambda: self._engine.add(request))

    def abort(self, request_id: int) -> None:
        """Forget a request and free what it holds."""
        self._commands.put(lambda: self._engine.abort(request_id))

    def take(self, timeout_s: float) -> tuple[list[RequestOutput], EngineEnd | None]:
        """Return what all steps have given since the last time, and the end if it has come.

        Waits for something, but no longer than `timeout_s`; one thread takes.
        """
        outputs: list[RequestOutput] = []
        try:
            news = self._outputs.get(timeout=timeout_s)
            while not isinstance(news, EngineEnd):
                outputs += news
                news = self._outputs.get_nowait()
        except Empty:
            return outputs, None
        return outputs, news

    def stop(self, timeout_s: float) -> bool:
        """End the thread after the step under way; return whether it has ended in time."""
        self._commands.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def heartbeat_age(self) -> float:
        """Seconds since the last step finished while there is work; 0 while there is none."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def stats(self) -> EngineStats:
        """Return a snapshot; any thread may ask."""
        return replace(self._engine.stats(), heartbeat_age=self.heartbeat_age)

    def _run(self) -> None:
        try:
            while self._obey():
                outputs = self._engine.step()
                self._busy_since = time.monotonic()
                if outputs:
                    self._outputs.put(outputs)
        except BaseException as error:
            self._outputs.put(EngineEnd(error))
        else:
            self._outputs.put(EngineEnd(None))

    def _obey(self) -> bool:
        """Follow the commands that have come, or wait for one if there is nothing else to do; False: stop."""
        engine, commands = self._engine, self._commands
        if not engine.has_work and not engine.in_flight:
            self._busy_since = None
            command = commands.get()
            self._busy_since = time.monotonic()
        else:
            try:
                command = commands.get_nowait()
            except Empty:
                return True
        while command is not None:
            command()
            try:
                command = commands.get_nowait()
            except Empty:
                return True
        return False
