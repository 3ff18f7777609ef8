"""Captured CUDA graphs: a whole decode step is one call of the driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from warploom.runtime.cuda.driver import Driver


class GraphKey(NamedTuple):
    """What a graph is for: rows and page-table columns of its bucket, and the entries that it runs."""

    rows: int
    pages: int
    entries: tuple[str, ...]


class Graphs:
    """Graphs by key, captured from a stream when first asked for."""

    def __init__(self, driver: Driver, stream: Any) -> None:
        self._driver, self._stream = driver, stream
        self._graphs: dict[GraphKey, Any] = {}

    def __len__(self) -> int:
        return len(self._graphs)

    def get(self, key: GraphKey, enqueue: Callable[[], None]) -> Any:
        """Return the executable graph of `key`, which `enqueue` puts on the stream if it has to be captured."""
        if key not in self._graphs:
            self._graphs[key] = capture(self._driver, self._stream, enqueue)
        return self._graphs[key]

    def launch(self, graph: Any) -> None:
        """Enqueue a graph."""
        (status,) = self._driver.api.cuGraphLaunch(graph, self._stream)
        if status != 0:
            raise self._driver.error("cuGraphLaunch", status)

    def close(self) -> None:
        """Free all graphs."""
        for graph in self._graphs.values():
            self._driver.release("cuGraphExecDestroy", graph)
        self._graphs.clear()


def capture(driver: Driver, stream: Any, enqueue: Callable[[], None]) -> Any:
    """Return an executable graph of what `enqueue` puts on `stream`, uploaded to the GPU.

    Raises:
        DeviceError: the driver refuses, or `enqueue` met an error.
    """
    mode = driver.api.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    driver.call("cuStreamBeginCapture", stream, mode)
    try:
        enqueue()
    except BaseException:
        driver.api.cuStreamEndCapture(stream)  # gives the stream back; its own status matters no more
        raise
    graph = driver.call("cuStreamEndCapture", stream)
    try:
        executable = driver.call("cuGraphInstantiate", graph, 0)
    finally:
        driver.release("cuGraphDestroy", graph)
    driver.call("cuGraphUpload", executable, stream)
    return executable
