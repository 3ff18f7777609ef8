"""One compiled entry with its data, in a folder: what `warploom run STAGE --on cuda` runs, here or on another machine.

A GPU machine needs no compiler for it. Arrays are kept as the plan's dtypes are stored: numpy has no bf16 and no f8,
so these are their bits; results are compared as numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from warploom.errors import InvalidRequestError
from warploom.runtime.cuda.driver import Driver
from warploom.runtime.cuda.launch import CudaEntry
from warploom.runtime.cuda.memory import DeviceMemory
from warploom.runtime.cuda.modules import Modules
from warploom.runtime.cuda.places import Arenas, Place, place_buffers
from warploom.runtime.cuda.replacements import kernels_of
from warploom.runtime.expr import evaluate
from warploom.runtime.plan import Buffer, Plan
from warploom.runtime.weights import numpy_dtype

PACKAGE, ARRAYS, POISON = "package.json", "arrays.npz", 0xFF  # memory that nobody wrote reads as NaN
KINDS = ("input", "param", "expected", "value", "slack")
Arrays = Mapping[str, np.ndarray]


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value that call `position` of the entry makes in the buffer `name`, for the module `location`."""

    name: str
    position: int
    location: str


class Package(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in a folder beside kernels and arrays.

    Attributes:
        entry, dims: what to run.
        arch: of the kernels: sm_90.
        against: where the results to compare with come from.
        tolerance: of the comparison.
        steps: what groups of kernels make, where the interpreter's values of it were saved too.
    """

    entry: str
    dims: dict[str, int]
    arch: str
    against: str
    tolerance: float
    plan: Plan
    steps: list[Step] = []


def write_package(folder: Path, package: Package, files: Mapping[str, bytes], arrays: Mapping[str, Arrays]) -> None:
    """Write a folder that is new or empty.

    Args:
        files: kernels, by the paths that the plan names.
        arrays: by kind: `input`, `param`, `expected` (results to compare with; possibly none), `value` (of steps) and
            `slack` (how far these may be apart beyond the tolerance, see `execution.py`).

    Raises:
        InvalidRequestError: there is something in the folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidRequestError(f"{folder} exists already", expected="a new folder", fix="name another, or remove it")
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    (folder / PACKAGE).write_bytes(msgspec.json.encode(package))
    flat: dict[str, Any] = {f"{kind}/{name}": bits(a) for kind, named in arrays.items() for name, a in named.items()}
    np.savez(folder / ARRAYS, **flat)


def read_package(folder: Path) -> tuple[Package, dict[str, dict[str, np.ndarray]]]:
    """Return what `write_package` was given.

    Raises:
        InvalidRequestError: the folder is no such package.
    """
    arrays: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in KINDS}
    try:
        package = msgspec.json.decode((folder / PACKAGE).read_bytes(), type=Package)
        with np.load(folder / ARRAYS) as file:
            for key in file.files:
                kind, _, name = key.partition("/")
                arrays[kind][name] = file[key]
    except (OSError, ValueError, KeyError, msgspec.DecodeError) as error:
        raise InvalidRequestError(
            f"{folder} is no program to run",
            expected="an .mlir file, or a folder that `warploom run --save` wrote",
            found=str(error),
        ) from error
    return package, arrays


def run_package(folder: Path, ordinal: int = 0, api: Any = None) -> dict[str, np.ndarray]:
    """Return the results of a package on a GPU, as bits; every run has fresh memory.

    Args:
        ordinal: which GPU. api: in place of `cuda.bindings.driver`.

    Raises:
        DeviceError: there is no GPU, or it fails.
    """
    package, arrays = read_package(folder)
    with opened(folder, package, arrays, ordinal, api) as run:
        run.entry.enqueue()
        run.wait()
        results = [b.name for b in package.plan.entries[package.entry].buffers if b.kind == "result"]
        return {name: run.download(name) for name in results}


@dataclass(frozen=True)
class Run:
    """A package in the memory of a GPU: kernels bound to buffers, nothing launched yet."""

    package: Package
    driver: Driver
    stream: Any
    entry: CudaEntry
    places: Mapping[str, Place]

    def wait(self) -> None:
        """Until what was enqueued is done."""
        self.driver.call("cuStreamSynchronize", self.stream)

    def download(self, name: str) -> np.ndarray:
        """The bits of a buffer."""
        (buffer,) = (b for b in self.package.plan.entries[self.package.entry].buffers if b.name == name and _is_own(b))
        array = np.empty([evaluate(n, self.package.dims) for n in buffer.shape], numpy_dtype(buffer.dtype))
        if array.nbytes:
            self.driver.call("cuMemcpyDtoH", array.ctypes.data, self.places[name].offset, array.nbytes)
        return array

    def upload(self, name: str, array: np.ndarray) -> None:
        """Put bits into a buffer."""
        dense = np.ascontiguousarray(array)
        if dense.nbytes:
            self.driver.call("cuMemcpyHtoD", self.places[name].offset, dense.ctypes.data, dense.nbytes)


def _is_own(buffer: Buffer) -> bool:
    """Of an input that is updated in place and the result of its name, the result."""
    return buffer.kind != "input"


@contextmanager
def opened(
    folder: Path, package: Package, arrays: Mapping[str, Arrays], ordinal: int = 0, api: Any = None
) -> Iterator[Run]:
    """A package in fresh memory of a GPU; see `run_package`."""
    plan, entry, dims = package.plan, package.plan.entries[package.entry], package.dims
    with ExitStack() as resources:
        driver = Driver(ordinal, api)
        resources.callback(driver.close)
        stream = driver.call("cuStreamCreate", driver.api.CUstream_flags.CU_STREAM_NON_BLOCKING)
        resources.callback(driver.release, "cuStreamDestroy", stream)
        kernels = kernels_of(entry, driver.gpu.num_multiprocessors)
        modules = Modules(driver, folder, plan.kernels, kernels, "cubin")
        resources.callback(modules.unload)
        memory = DeviceMemory(driver)
        resources.callback(memory.free)
        fixed = {
            name: _upload(driver, memory, name, array) for name, array in {**arrays["param"], **arrays["input"]}.items()
        }
        scratch = memory.take("scratch", evaluate(entry.arena_bytes, dims))
        if scratch:
            driver.call("cuMemsetD8", scratch, POISON, memory.taken["scratch"])
        zeroed = memory.take_zeroed("counters", evaluate(entry.zeroed_bytes, dims))
        places = place_buffers(entry, dims, fixed, Arenas(scratch, zeroed))
        driver.call("cuCtxSynchronize")
        bound = CudaEntry(driver, stream, entry, plan.kernels, modules.functions, places, dims, memory)
        bound.resolve(dims)
        yield Run(package, driver, stream, bound, places)


def result_dtypes(package: Package) -> dict[str, str]:
    """Plan dtypes of the results by name."""
    return {b.name: b.dtype for b in package.plan.entries[package.entry].buffers if b.kind == "result"}


def bits(array: np.ndarray) -> np.ndarray:
    """An array in a dtype that numpy can store."""
    is_foreign = array.dtype.kind == "V" or array.dtype.name.startswith(("bfloat", "float8"))
    return array.view(f"u{array.dtype.itemsize}") if is_foreign else array


def numbers(array: np.ndarray, dtype: str) -> np.ndarray:
    """What the bits of a plan dtype stand for, f32 where they are bf16 or f8; others as they are."""
    if dtype == "bf16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    if dtype == "f8e4m3":
        return _F8[array]
    return array


def _f8_values() -> np.ndarray:
    """The numbers of the 256 codes: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    size = np.where(exponent, (8 + mantissa) * 2.0 ** (exponent - 10.0), mantissa * 2.0**-9)
    size[code & 127 == 127] = np.nan
    return np.where(code >> 7, -size, size).astype(np.float32)


_F8 = _f8_values()


def _upload(driver: Driver, memory: DeviceMemory, name: str, array: np.ndarray) -> int:
    dense = np.ascontiguousarray(array)
    address = memory.take(name, dense.nbytes)
    if dense.nbytes:
        driver.call("cuMemcpyHtoD", address, dense.ctypes.data, dense.nbytes)
    return address
