"""Enqueueing one entry of a plan on a stream: every launch prepared at load, so that a call only fills in numbers.

A kernel's parameters are a table of addresses of values. Values live in three arrays: pointers (one per buffer),
numbers (one per expression over the dims) and constants (tensor maps). Launches share them: to move an input or to
change the dims is to write a few words, whatever the number of launches. The driver copies the values when it is
given a launch, so they may be rewritten at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from warploom.errors import ArtifactError, EngineError
from warploom.runtime.cuda.driver import Driver
from warploom.runtime.cuda.modules import Function, cuda_info
from warploom.runtime.cuda.places import Place
from warploom.runtime.cuda.tensor_map import BYTES, encode_tensor_map
from warploom.runtime.expr import Expr, compile_exprs, evaluate
from warploom.runtime.plan import DimParam, DimRange, Entry, Guard, KernelInfo, Launch, PointerParam, TensorMapParam

Config: TypeAlias = Any  # CUlaunchConfig
_THREADS_OF_WARP = 32


class Queued(NamedTuple):
    """A launch that the present dims need: its place in the plan, and the arguments of cuLaunchKernelEx."""

    place: int
    config: Config
    function: Function
    params: int


@dataclass(eq=False, slots=True)
class _Group:
    """Launches that agree in kernel, grid and guard. `grid`, `guarded`: indices into the numbers."""

    config: Config
    grid: tuple[int, int, int]
    guarded: int
    guard: Guard | None
    active: bool = False

    def resolve(self, numbers: Sequence[int]) -> None:
        """Decide whether the launches run, and how large their grids are."""
        x, y, z = (numbers[index] for index in self.grid)
        guard = self.guard
        self.active = bool(x and y and z) and (guard is None or guard.min <= numbers[self.guarded] <= guard.max)
        if self.active:
            self.config.gridDimX, self.config.gridDimY, self.config.gridDimZ = x, y, z


class CudaEntry:
    """One entry, bound to its kernels, memory and stream.

    Args:
        kernels: facts of the plan's kernels. functions: the loaded ones, by name.
        places: of the entry's buffers.
        limits: the largest value of each dim.

    Raises:
        ArtifactError: launches, kernels and buffers do not fit together.
    """

    def __init__(
        self,
        driver: Driver,
        stream: Any,
        entry: Entry,
        kernels: Mapping[str, KernelInfo],
        functions: Mapping[str, Function],
        places: Mapping[str, Place],
        limits: Mapping[str, int],
    ) -> None:
        self.launches, self.places = entry.launches, places
        self._driver, self._stream = driver, stream
        self._ranges, self._limits = entry.dims, {name: limits[name] for name in entry.dims}
        self._moving = [(i, place) for i, place in enumerate(places.values()) if place.moving is not None]
        self._pointers = np.array([place.offset for place in places.values()], np.uint64)
        self._index = {name: index for index, name in enumerate(places)}
        exprs = {expr: None for launch in entry.launches for expr in _exprs(launch)}
        self._number = {expr: index for index, expr in enumerate(exprs)}
        self._evaluate = compile_exprs(list(exprs), list(entry.dims))
        self._numbers = np.zeros(len(exprs), np.int32)
        self._constants: list[np.ndarray[Any, np.dtype[np.uint8]]] = [np.zeros(8, np.uint8)]  # a null pointer
        self._tensor_maps: dict[object, list[int]] = {}
        self._groups: dict[object, _Group] = {}
        self._prepared = [self._prepare(launch, kernels, functions) for launch in entry.launches]
        self._resolved: tuple[int, ...] = ()
        self.queue: list[Queued] = []

    def resolve(self, dims: Mapping[str, int]) -> None:
        """Fill in the dims (more than the entry has do no harm).

        Raises:
            EngineError: a dim is outside what was compiled or what the device has memory for.
        """
        values = tuple(self._checked(name, known, dims[name]) for name, known in self._ranges.items())
        if values == self._resolved:
            return
        numbers = self._evaluate(*values)
        self._numbers[:] = numbers
        for group in self._groups.values():
            group.resolve(numbers)
        self.queue = [
            Queued(index, group.config, function, table.ctypes.data)
            for index, (group, function, table) in enumerate(self._prepared)
            if group.active
        ]
        self._resolved = values

    def move(self, inputs: Mapping[str, int]) -> None:
        """Set the addresses of the inputs that have none of their own."""
        for index, place in self._moving:
            self._pointers[index] = inputs[place.moving or ""] + place.offset

    def enqueue(self, after_each: Callable[[], None] | None = None) -> None:
        """Enqueue all launches.

        Args:
            after_each: called after every launch.

        Raises:
            DeviceError: the driver refuses one, or the GPU has failed before.
        """
        launch = self._driver.api.cuLaunchKernelEx
        for place, config, function, params in self.queue:
            (status,) = launch(config, function, params, 0)
            if status != 0:
                raise self._driver.error(f"cuLaunchKernelEx of {self.launches[place].kernel}", status)
            if after_each is not None:
                after_each()

    def _checked(self, name: str, known: DimRange, value: int) -> int:
        if not known.min <= value <= self._limits[name] or value % known.multiple_of:
            raise EngineError(
                f"The dim {name} is outside what the device is prepared for",
                expected=f"{known.min}..{self._limits[name]}, a multiple of {known.multiple_of}",
                found=str(value),
                fix="open the device with larger limits, or compile the model with larger ones",
            )
        return value

    def _prepare(
        self, launch: Launch, kernels: Mapping[str, KernelInfo], functions: Mapping[str, Function]
    ) -> tuple[_Group, Function, np.ndarray[Any, np.dtype[np.uint64]]]:
        """Group, function and table of parameters of one launch."""
        info = cuda_info(kernels, launch.kernel)
        when = launch.when
        key = (launch.kernel, *launch.grid, when)
        if key not in self._groups:
            grid = tuple(self._number[extent] for extent in launch.grid)
            if len(grid) != 3:
                raise ArtifactError(f"A launch of {launch.kernel} has no grid", fix="compile the model again")
            guarded = 0 if when is None else self._number[when.value]
            config = launch_config(self._driver, self._stream, info.num_warps, info.shared_bytes, info.pdl)
            self._groups[key] = _Group(config, grid, guarded, when)
        table = np.array(self._params(launch, kernels[launch.kernel]), np.uint64)
        return self._groups[key], functions[launch.kernel], table

    def _params(self, launch: Launch, kernel: KernelInfo) -> list[int]:
        """Addresses of the values of a kernel's parameters, in order."""
        table: list[int] = []
        operands, dims = iter(launch.operands), iter(launch.dims)
        null = self._constants[0].ctypes.data
        try:
            for param in cuda_info({launch.kernel: kernel}, launch.kernel).params:
                match param:
                    case PointerParam():
                        table.append(_address(self._pointers, self._index[next(operands)]))
                    case DimParam():
                        table.append(_address(self._numbers, self._number[next(dims)]))
                    case TensorMapParam():
                        table += self._tensor_map(next(operands), param, launch, kernel)
        except (StopIteration, KeyError) as error:
            raise _mismatch(launch) from error
        if next(operands, None) is not None or next(dims, None) is not None:
            raise _mismatch(launch)
        return [*table, null, null]

    def _tensor_map(self, operand: str, param: TensorMapParam, launch: Launch, kernel: KernelInfo) -> list[int]:
        """Addresses of a tensor map and of the shape and strides that follow it."""
        largest = {own: evaluate(expr, self._limits) for own, expr in zip(kernel.dims, launch.dims, strict=True)}
        shape = tuple(evaluate(extent, largest) for extent in param.shape)
        key = (operand, param.dtype, shape, tuple(param.box), param.swizzle)
        if key not in self._tensor_maps:
            place = self.places[operand]
            if place.moving is not None:
                raise ArtifactError(
                    f"{launch.kernel} has a tensor map of the input {operand}, which has no fixed place"
                )
            encoded = encode_tensor_map(self._driver, place.offset, param, shape)
            self._tensor_maps[key] = [
                self._constant(np.frombuffer(encoded.opaque, np.uint8)),
                *(self._constant(np.array([extent], np.int32)) for extent in encoded.shape),
                *(self._constant(np.array([stride], np.int64)) for stride in encoded.strides),
            ]
        return self._tensor_maps[key]

    def _constant(self, value: np.ndarray[Any, Any]) -> int:
        """The address of a copy that stays."""
        room = np.zeros(value.nbytes + BYTES, np.uint8)
        start = -room.ctypes.data % 64  # a CUtensorMap is aligned to 64 bytes
        room[start : start + value.nbytes] = value.view(np.uint8)
        self._constants.append(room)
        return room.ctypes.data + start


def launch_config(driver: Driver, stream: Any, num_warps: int, shared_bytes: int, pdl: bool) -> Config:
    """Return a launch configuration whose grid is to be filled in.

    Args:
        pdl: the kernel may start while the one before it still runs: it waits for that one itself, in every block,
            before it touches anything that a kernel writes (`codegen.cuda.kernel`). So this is safe after any
            kernel; after anything else (copies, events) the driver orders it as usual.
    """
    api = driver.api
    config = api.CUlaunchConfig()
    config.gridDimX = config.gridDimY = config.gridDimZ = 1
    config.blockDimX, config.blockDimY, config.blockDimZ = _THREADS_OF_WARP * num_warps, 1, 1
    config.sharedMemBytes = shared_bytes
    config.hStream = stream
    if pdl:
        attribute = api.CUlaunchAttribute()
        attribute.id = api.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
        config.attrs = [attribute]
        config.numAttrs = 1
    return config


def _exprs(launch: Launch) -> list[Expr]:
    return [*launch.dims, *launch.grid, *([launch.when.value] if launch.when else [])]


def _address(array: np.ndarray[Any, Any], index: int) -> int:
    return array.ctypes.data + index * array.itemsize


def _mismatch(launch: Launch) -> ArtifactError:
    return ArtifactError(
        f"A launch of {launch.kernel} does not fit its kernel's parameters",
        found=f"operands {', '.join(launch.operands)}; dims {', '.join(map(str, launch.dims))}",
        fix="compile the model again",
    )
