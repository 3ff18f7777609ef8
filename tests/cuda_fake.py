"""A CUDA driver without a GPU, in place of `cuda.bindings.driver`: device memory is host memory, kernels are Python.

Work on streams is done as late as the program's synchronization allows (`lazy`), or at once: what is right under
both has no race between host and device.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

Kernel = Callable[..., None]  # (grid, *arguments): pointers and i32 as int, tensor maps as bytes
OUT_OF_MEMORY = 2
_SLACK = 256  # so that allocations can be aligned as the driver does


def array_at(address: int, dtype: Any, shape: Sequence[int]) -> np.ndarray:
    """The array at an address of the fake device."""
    count = int(np.prod(shape))
    dtype = np.dtype(dtype)
    memory = (ctypes.c_char * max(1, count * dtype.itemsize)).from_address(address)
    return np.frombuffer(memory, dtype, count).reshape(tuple(shape))


class _Names:
    """An enum of the driver: every name is a member, whose value is its name."""

    def __getattr__(self, name: str) -> str:
        return name


@dataclass(eq=False)
class Event:
    recorded: int = 0
    done: int = 0
    stream: Stream | None = None


@dataclass(eq=False)
class Stream:
    """Operations that have not been done; while it captures, they go to the graph."""

    queue: deque[Callable[[], None]] = field(default_factory=deque)
    captured: list[Callable[[], None]] | None = None

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        while self.queue and not until():
            self.queue.popleft()()


@dataclass
class Launched:
    """A launch as the driver saw it."""

    kernel: str
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    pdl: bool
    captured: bool
    cooperative: bool


class FakeCuda:
    """The functions that the runtime uses.

    Args:
        kernels: by name: what to do, and the kinds of its parameters: "pointer", "i32", "i64", "tensormap".
    """

    def __init__(
        self,
        kernels: Mapping[str, tuple[Kernel, Sequence[str]]] | None = None,
        *,
        lazy: bool = True,
        capability: int = 90,
        driver: int = 13000,
        total_bytes: int = 1 << 28,
        count: int = 1,
    ) -> None:
        self.kernels = dict(kernels or {})
        self.lazy, self.capability, self.driver, self.total_bytes, self.count = (
            lazy, capability, driver, total_bytes, count,
        )  # fmt: skip
        self.current = threading.local()  # its `context` is that of the thread
        self.allocated: dict[int, np.ndarray] = {}
        self.pinned: dict[int, np.ndarray] = {}
        self.live = {"stream": 0, "event": 0, "module": 0, "graph": 0, "context": 0}
        self.launched: list[Launched] = []
        self.images: list[bytes] = []
        self.maps: list[tuple[Any, ...]] = []
        self.streams: list[Stream] = []
        self.captures = self.graph_launches = 0
        self.failing: dict[str, int] = {}  # function -> status that it returns from now on

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if name.startswith("cu") and name[2:3].isupper() and name in self.failing:
            return lambda *_: (self.failing[name], None)
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("CU"):
            return _Names()
        raise AttributeError(name)

    # Device and context.
    def cuInit(self, flags: int) -> tuple[int]:
        return (0 if self.count else 100,)

    def cuDriverGetVersion(self) -> tuple[int, int]:
        return 0, self.driver

    def cuDeviceGetCount(self) -> tuple[int, int]:
        return 0, self.count

    def cuDeviceGet(self, ordinal: int) -> tuple[int, int]:
        return 0, ordinal

    def cuDeviceGetName(self, length: int, device: int) -> tuple[int, bytes]:
        return 0, b"Fake GPU".ljust(length, b"\0")

    def cuDeviceTotalMem(self, device: int) -> tuple[int, int]:
        return 0, self.total_bytes

    def cuDeviceGetAttribute(self, attribute: str, device: int) -> tuple[int, int]:
        if attribute.endswith("MAJOR"):
            return 0, self.capability // 10
        return 0, self.capability % 10 if attribute.endswith("MINOR") else 132

    def cuDevicePrimaryCtxRetain(self, device: int) -> tuple[int, str]:
        self.live["context"] += 1
        return 0, "context"

    def cuDevicePrimaryCtxRelease(self, device: int) -> tuple[int]:
        self.live["context"] -= 1
        return (0,)

    def cuCtxSetCurrent(self, context: str) -> tuple[int]:
        assert context == "context"
        self.current.context = context
        return (0,)

    def cuCtxSynchronize(self) -> tuple[int]:
        for stream in self.streams:
            stream.run()
        return (0,)

    def cuGetErrorName(self, status: int) -> tuple[int, bytes]:
        return 0, {2: b"CUDA_ERROR_OUT_OF_MEMORY", 100: b"CUDA_ERROR_NO_DEVICE"}.get(status, b"CUDA_ERROR_OTHER")

    def cuGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, b"what it means"

    # Memory.
    @property
    def free_bytes(self) -> int:
        return self.total_bytes - sum(block.nbytes - _SLACK for block in self.allocated.values())

    def cuMemGetInfo(self) -> tuple[int, int, int]:
        return 0, self.free_bytes, self.total_bytes

    def cuMemAlloc(self, num_bytes: int) -> tuple[int, int | None]:
        if num_bytes > self.free_bytes:
            return OUT_OF_MEMORY, None
        block = np.random.default_rng(len(self.allocated)).integers(1, 255, num_bytes + _SLACK, np.uint8)
        address = -(-block.ctypes.data // _SLACK) * _SLACK
        self.allocated[address] = block
        return 0, address

    def cuMemFree(self, address: int) -> tuple[int]:
        assert self.current.context
        del self.allocated[address]
        return (0,)

    def cuMemHostAlloc(self, num_bytes: int, flags: int) -> tuple[int, int]:
        block = np.full(num_bytes + 64, 0xAB, np.uint8)
        self.pinned[block.ctypes.data] = block
        return 0, block.ctypes.data

    def cuMemFreeHost(self, address: int) -> tuple[int]:
        self.pinned.pop(address)[...] = 0xCD
        return (0,)

    def cuMemsetD8(self, address: int, value: int, num_bytes: int) -> tuple[int]:
        ctypes.memset(address, value, num_bytes)
        return (0,)

    def cuMemcpyHtoD(self, target: int, source: int, num_bytes: int) -> tuple[int]:
        ctypes.memmove(target, source, num_bytes)
        return (0,)

    def cuMemcpyDtoH(self, target: int, source: int, num_bytes: int) -> tuple[int]:
        ctypes.memmove(target, source, num_bytes)
        return (0,)

    def cuMemcpyDtoDAsync(self, target: int, source: int, num_bytes: int, stream: Any) -> tuple[int]:
        ctypes.memmove(target, source, num_bytes)
        return (0,)

    def cuMemcpyHtoDAsync(self, target: int, source: int, num_bytes: int, stream: Stream) -> tuple[int]:
        return self._do(stream, lambda: ctypes.memmove(target, source, num_bytes))

    def cuMemcpyDtoHAsync(self, target: int, source: int, num_bytes: int, stream: Stream) -> tuple[int]:
        return self._do(stream, lambda: ctypes.memmove(target, source, num_bytes))

    # Streams and events.
    def cuStreamCreate(self, flags: str) -> tuple[int, Stream]:
        self.live["stream"] += 1
        self.streams.append(Stream())
        return 0, self.streams[-1]

    def cuStreamDestroy(self, stream: Stream) -> tuple[int]:
        self.live["stream"] -= 1
        self.streams.remove(stream)
        return (0,)

    def cuStreamSynchronize(self, stream: Stream) -> tuple[int]:
        stream.run()
        return (0,)

    def cuEventCreate(self, flags: str) -> tuple[int, Event]:
        self.live["event"] += 1
        return 0, Event()

    def cuEventDestroy(self, event: Event) -> tuple[int]:
        self.live["event"] -= 1
        return (0,)

    def cuEventRecord(self, event: Event, stream: Stream) -> tuple[int]:
        event.recorded += 1
        event.stream = stream
        version = event.recorded
        return self._do(stream, lambda: setattr(event, "done", version))

    def cuEventRecordWithFlags(self, event: Event, stream: Stream, flags: int) -> tuple[int]:
        assert flags == (1 if stream.captured is not None else 0), "1: recorded anew by every launch of the graph"
        return self.cuEventRecord(event, stream)

    def cuEventElapsedTime(self, first: Event, second: Event) -> tuple[int, float]:
        assert first.done
        assert second.done
        return 0, 0.25

    def cuEventSynchronize(self, event: Event) -> tuple[int]:
        self._wait(event, event.recorded)
        return (0,)

    def cuStreamWaitEvent(self, stream: Stream, event: Event, flags: int) -> tuple[int]:
        version = event.recorded
        return self._do(stream, lambda: self._wait(event, version))

    # Kernels.
    def cuModuleLoadData(self, image: bytes) -> tuple[int, str]:
        self.live["module"] += 1
        self.images.append(image)
        return 0, "module"

    def cuModuleUnload(self, module: str) -> tuple[int]:
        self.live["module"] -= 1
        return (0,)

    def cuModuleGetFunction(self, module: str, name: bytes) -> tuple[int, str | None]:
        known = name.decode() in self.kernels
        return (0, name.decode()) if known else (500, None)

    def cuFuncSetAttribute(self, function: str, attribute: str, value: int) -> tuple[int]:
        return (0 if value <= 227 << 10 else 1,)

    def CUlaunchConfig(self) -> Any:
        return SimpleNamespace(attrs=[], numAttrs=0)

    def CUlaunchAttribute(self) -> Any:
        return SimpleNamespace(id=None, value=SimpleNamespace())

    def cuLaunchKernelEx(self, config: Any, function: str, params: int, extra: int) -> tuple[int]:
        kernel, kinds = self.kernels[function]
        arguments = [
            _argument(kind, ctypes.c_uint64.from_address(params + 8 * i).value) for i, kind in enumerate(kinds)
        ]
        trailing = [ctypes.c_uint64.from_address(params + 8 * (len(kinds) + i)).value for i in range(2)]
        assert [_argument("pointer", address) for address in trailing] == [0, 0]
        grid = config.gridDimX, config.gridDimY, config.gridDimZ
        assert min(grid) > 0
        assert (config.blockDimY, config.blockDimZ) == (1, 1)
        stream: Stream = config.hStream
        assert config.numAttrs == len(config.attrs)
        pdl, cooperative = (any(kind in one.id for one in config.attrs) for kind in ("PROGRAMMATIC", "COOPERATIVE"))
        shape = grid, config.blockDimX, config.sharedMemBytes
        self.launched.append(Launched(function, *shape, pdl, stream.captured is not None, cooperative))
        return self._do(stream, lambda: kernel(grid, *arguments))

    def cuuint64_t(self, value: int) -> int:
        return value

    def cuuint32_t(self, value: int) -> int:
        return value

    def cuTensorMapEncodeTiled(self, *arguments: Any) -> tuple[int, Any]:
        self.maps.append(arguments)
        opaque = ctypes.create_string_buffer(len(self.maps).to_bytes(8, "little"), 128)
        return 0, SimpleNamespace(getPtr=lambda: ctypes.addressof(opaque), keep=opaque)

    # Graphs.
    def cuStreamBeginCapture(self, stream: Stream, mode: str) -> tuple[int]:
        assert stream.captured is None
        stream.captured = []
        return (0,)

    def cuStreamEndCapture(self, stream: Stream) -> tuple[int, Any]:
        captured, stream.captured = stream.captured, None
        self.captures += 1
        self.live["graph"] += 1
        return 0, captured

    def cuGraphInstantiate(self, graph: Any, flags: int) -> tuple[int, Any]:
        self.live["graph"] += 1
        return 0, list(graph)

    def cuGraphUpload(self, graph: Any, stream: Stream) -> tuple[int]:
        return (0,)

    def cuGraphDestroy(self, graph: Any) -> tuple[int]:
        self.live["graph"] -= 1
        return (0,)

    def cuGraphExecDestroy(self, graph: Any) -> tuple[int]:
        self.live["graph"] -= 1
        return (0,)

    def cuGraphLaunch(self, graph: list[Callable[[], None]], stream: Stream) -> tuple[int]:
        self.graph_launches += 1

        def run() -> None:
            for operation in graph:
                operation()

        return self._do(stream, run)

    def _do(self, stream: Stream, operation: Callable[[], Any]) -> tuple[int]:
        assert self.current.context, "no context is current in this thread"
        if stream.captured is not None:
            stream.captured.append(operation)
            return (0,)
        stream.queue.append(operation)
        if not self.lazy:
            stream.run()
        return (0,)

    def _wait(self, event: Event, version: int) -> None:
        if event.stream is not None:
            event.stream.run(until=lambda: event.done >= version)
        assert event.done >= version, "a stream waits for itself"


def _argument(kind: str, address: int) -> Any:
    if kind == "tensormap":
        assert address % 64 == 0
        return ctypes.string_at(address, 128)
    types = {"pointer": ctypes.c_uint64, "i32": ctypes.c_int32, "i64": ctypes.c_int64}
    return types[kind].from_address(address).value
