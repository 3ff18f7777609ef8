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
from warploom.runtime.cuda.memory import DeviceMemory
from warploom.runtime.cuda.modules import Function, cuda_info
from warploom.runtime.cuda.places import Place
from warploom.runtime.cuda.replacements import Chosen, chosen_launches
from warploom.runtime.cuda.tensor_map import BYTES, encode_tensor_map
from warploom.runtime.expr import Expr, compile_exprs, evaluate
from warploom.runtime.plan import (
    CudaInfo,
    DimParam,
    DimRange,
    Entry,
    Guard,
    KernelInfo,
    Launch,
    PointerParam,
    TableParam,
    TensorMapParam,
)

Config: TypeAlias = Any  # CUlaunchConfig
_THREADS_OF_WARP = 32


class Queued(NamedTuple):
    """A launch that the present dims need: its place in the plan, and the arguments of cuLaunchKernelEx."""

    place: int
    config: Config
    function: Function
    params: int


class _Condition(NamedTuple):
    """A guard on number `place`."""

    place: int
    guard: Guard

    def holds(self, numbers: Sequence[int]) -> bool:
        return self.guard.min <= numbers[self.place] <= self.guard.max


@dataclass(eq=False, slots=True)
class _Group:
    """Launches that agree in kernel, grid and guards. `grid`: indices into the numbers."""

    config: Config
    grid: tuple[int, int, int]
    when: _Condition | None
    unless: _Condition | None
    active: bool = False

    def resolve(self, numbers: Sequence[int]) -> None:
        """Decide whether the launches run, and how large their grids are."""
        x, y, z = (numbers[index] for index in self.grid)
        self.active = bool(x and y and z) and (self.when is None or self.when.holds(numbers))
        if self.unless is not None and self.unless.holds(numbers):
            self.active = False
        if self.active:
            self.config.gridDimX, self.config.gridDimY, self.config.gridDimZ = x, y, z


class CudaEntry:
    """One entry, bound to its kernels, memory and stream.

    Args:
        kernels: facts of the plan's kernels. functions: the loaded ones, by name.
        places: of the entry's buffers.
        limits: the largest value of each dim.
        memory: where tables of addresses go.

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
        memory: DeviceMemory,
    ) -> None:
        chosen = chosen_launches(entry, driver.gpu.num_multiprocessors)
        self.launches, self.places = [launch for launch, _ in chosen], places
        self._driver, self._stream, self._memory = driver, stream, memory
        self._ranges, self._limits = entry.dims, {name: limits[name] for name in entry.dims}
        self._moving = [(i, place) for i, place in enumerate(places.values()) if place.moving is not None]
        self._pointers = np.array([place.offset for place in places.values()], np.uint64)
        self._index = {name: index for index, name in enumerate(places)}
        exprs = {expr: None for one in chosen for expr in _exprs(one)}
        self._number = {expr: index for index, expr in enumerate(exprs)}
        self._evaluate = compile_exprs(list(exprs), list(entry.dims))
        self._numbers = np.zeros(len(exprs), np.int32)
        self._constants: list[np.ndarray[Any, np.dtype[np.uint8]]] = [np.zeros(8, np.uint8)]  # a null pointer
        self._tensor_maps: dict[object, list[int]] = {}
        self._groups: dict[object, _Group] = {}
        self._prepared = [self._prepare(one, kernels, functions) for one in chosen]
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
        self, chosen: Chosen, kernels: Mapping[str, KernelInfo], functions: Mapping[str, Function]
    ) -> tuple[_Group, Function, np.ndarray[Any, np.dtype[np.uint64]]]:
        """Group, function and table of parameters of one launch."""
        launch, unless = chosen
        info = cuda_info(kernels, launch.kernel)
        key = (launch.kernel, *launch.grid, launch.when, unless)
        if key not in self._groups:
            grid = tuple(self._number[extent] for extent in launch.grid)
            if len(grid) != 3:
                raise ArtifactError(f"A launch of {launch.kernel} has no grid", fix="compile the model again")
            config = launch_config(self._driver, self._stream, info)
            self._groups[key] = _Group(config, grid, self._condition(launch.when), self._condition(unless))
        table = np.array(self._params(launch, kernels[launch.kernel]), np.uint64)
        return self._groups[key], functions[launch.kernel], table

    def _condition(self, guard: Guard | None) -> _Condition | None:
        return None if guard is None else _Condition(self._number[guard.value], guard)

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
                    case TableParam(count=count):
                        table.append(self._table([next(operands) for _ in range(count)], launch))
        except (StopIteration, KeyError) as error:
            raise _mismatch(launch) from error
        if next(operands, None) is not None or next(dims, None) is not None:
            raise _mismatch(launch)
        return [*table, null, null]

    def _table(self, operands: Sequence[str], launch: Launch) -> int:
        """The host address of the device address of the addresses of operands."""
        places = [self.places[operand] for operand in operands]
        moving = [place.moving for place in places if place.moving is not None]
        if moving:
            raise ArtifactError(f"{launch.kernel} has a table with the input {moving[0]}, which has no fixed place")
        addresses = np.array([place.offset for place in places], np.uint64)
        device = self._memory.take(f"table of {launch.kernel}", addresses.nbytes)
        self._driver.call("cuMemcpyHtoD", device, addresses.ctypes.data, addresses.nbytes)
        return self._constant(np.array([device], np.uint64))

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


def launch_config(driver: Driver, stream: Any, info: CudaInfo) -> Config:
    """Return a launch configuration whose grid is to be filled in.

    With `pdl` a kernel may start while the one before it still runs: it waits for that one itself, in every block,
    before it touches anything that a kernel writes (`codegen.cuda.kernel`). So this is safe after any kernel; after
    anything else (copies, events) the driver orders it as usual. A cooperative kernel whose blocks do not fit the GPU
    at once is refused by the driver.
    """
    api = driver.api
    config = api.CUlaunchConfig()
    config.gridDimX = config.gridDimY = config.gridDimZ = 1
    config.blockDimX, config.blockDimY, config.blockDimZ = _THREADS_OF_WARP * info.num_warps, 1, 1
    config.sharedMemBytes = info.shared_bytes
    config.hStream = stream
    attributes: list[Any] = []
    if info.pdl:
        attributes.append(attribute := api.CUlaunchAttribute())
        attribute.id = api.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
        attribute.value.programmaticStreamSerializationAllowed = 1
    if info.cooperative:
        attributes.append(attribute := api.CUlaunchAttribute())
        attribute.id = api.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
        attribute.value.cooperative = 1
    if attributes:
        config.attrs, config.numAttrs = attributes, len(attributes)
    return config


def _exprs(chosen: Chosen) -> list[Expr]:
    launch, unless = chosen
    return [*launch.dims, *launch.grid, *(guard.value for guard in (launch.when, unless) if guard is not None)]


def _address(array: np.ndarray[Any, Any], index: int) -> int:
    return array.ctypes.data + index * array.itemsize


def _mismatch(launch: Launch) -> ArtifactError:
    return ArtifactError(
        f"A launch of {launch.kernel} does not fit its kernel's parameters",
        found=f"operands {', '.join(launch.operands)}; dims {', '.join(map(str, launch.dims))}",
        fix="compile the model again",
    )
