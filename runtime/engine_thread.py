"""The thread that owns an engine: commands in through one queue, the outputs of steps out through another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TypeAlias

from warploom.runtime.engine import Engine, RequestOutput
from warploom.runtime.engine_stats import EngineStats
from warploom.runtime.request import Request

Outputs: TypeAlias = "list[RequestOutput] | BaseException | None"  # of a step; what killed the engine; the end


class EngineThread:
    """Runs an engine until `stop`, or until a step fails.

    Attributes:
        outputs: what each step gave that gave something. After an exception nothing follows; None: stopped.
    """

    def __init__(self, engine: Engine) -> None:
        self.outputs: SimpleQueue[Outputs] = SimpleQueue()
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
                    self.outputs.put(outputs)
        except BaseException as error:
            self.outputs.put(error)
        else:
            self.outputs.put(None)

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
