"""Checked calls of the CUDA driver, through `cuda.bindings.driver`, and the facts about one GPU."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from warploom.errors import DeviceError

# The driver's API for launches with attributes and tensor maps. CUDA versions are 1000 * major + 10 * minor.
MIN_DRIVER = 12000
_OUT_OF_MEMORY, _NO_DEVICE = 2, 100  # CUresult


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU.

    Attributes:
        capability: ten times the compute capability: 90.
        driver: the newest CUDA version that the driver knows: 13000.
        total_bytes: its memory.
    """

    name: str
    capability: int
    driver: int
    total_bytes: int
    num_multiprocessors: int


class Driver:
    """The driver's functions for one GPU, whose primary context is current in the calling thread.

    Args:
        ordinal: which GPU, as the driver counts them (after CUDA_VISIBLE_DEVICES).
        api: in place of `cuda.bindings.driver`.

    Attributes:
        api: for enums and structs, and for calls that are too frequent to go through `call`.
        gpu: what it is. context: its primary context.

    Raises:
        DeviceError: there is no driver, no such GPU, or the driver is too old.
    """

    def __init__(self, ordinal: int = 0, api: Any = None) -> None:
        self.api = _bindings() if api is None else api
        _initialize(self.api)
        version = self.call("cuDriverGetVersion")
        if version < MIN_DRIVER:
            raise driver_too_old("This runtime", MIN_DRIVER, version)
        count = self.call("cuDeviceGetCount")
        if not 0 <= ordinal < count:
            raise DeviceError("There is no such GPU", expected=f"an ordinal below {count}", found=str(ordinal))
        self._device = self.call("cuDeviceGet", ordinal)
        self.context = self.call("cuDevicePrimaryCtxRetain", self._device)
        self.make_current()
        self.gpu = self._describe(version)

    def call(self, function: str, *args: Any) -> Any:
        """Return what a function of the driver gives: nothing, one value, or a tuple.

        Raises:
            DeviceError: it failed; with its name, the error's name and meaning.
        """
        status, *values = getattr(self.api, function)(*args)
        if status != 0:
            raise self.error(function, status)
        return values[0] if len(values) == 1 else tuple(values)

    def error(self, function: str, status: Any) -> DeviceError:
        """Return the error to raise for a status other than success."""
        name, text = (getattr(self.api, get)(status)[1] for get in ("cuGetErrorName", "cuGetErrorString"))
        found = ": ".join(part.decode() for part in (name, text) if part)
        if status == _OUT_OF_MEMORY:
            free, total = self.memory()
            found += f"; {free} of {total} bytes are free on the GPU"
        return DeviceError(f"The CUDA driver's {function} failed", found=found or str(status))

    def make_current(self) -> None:
        """Make the GPU's context current in the calling thread."""
        self.call("cuCtxSetCurrent", self.context)

    def memory(self) -> tuple[int, int]:
        """Return the free and all bytes of the GPU's memory; free is 0 if the GPU does not answer any more."""
        status, *amounts = self.api.cuMemGetInfo()
        return (int(amounts[0]), int(amounts[1])) if status == 0 else (0, 0)

    def release(self, function: str, *args: Any) -> None:
        """Free something. On a GPU that has failed that fails too, as everything does; the process's end frees it."""
        getattr(self.api, function)(*args)

    def close(self) -> None:
        """Let go of the context."""
        self.release("cuDevicePrimaryCtxRelease", self._device)

    def _describe(self, version: int) -> Gpu:
        attribute = self.api.CUdevice_attribute
        prefix = "CU_DEVICE_ATTRIBUTE_"
        major, minor, multiprocessors = (
            self.call("cuDeviceGetAttribute", getattr(attribute, prefix + name), self._device)
            for name in ("COMPUTE_CAPABILITY_MAJOR", "COMPUTE_CAPABILITY_MINOR", "MULTIPROCESSOR_COUNT")
        )
        name = self.call("cuDeviceGetName", 128, self._device).split(b"\0")[0].decode()
        total = int(self.call("cuDeviceTotalMem", self._device))
        return Gpu(name, 10 * major + minor, version, total, multiprocessors)


def has_gpu(api: Any = None) -> bool:
    """Return whether there is an NVIDIA GPU that the driver can reach, and the package to reach it with."""
    try:
        api = _bindings() if api is None else api
        _initialize(api)
    except DeviceError:
        return False
    status, count = api.cuDeviceGetCount()
    return bool(status == 0 and count)


def driver_too_old(what: str, needed: int, found: int) -> DeviceError:
    """Return the error for a driver older than `what` needs."""
    return DeviceError(
        f"{what} needs a newer NVIDIA driver",
        expected=f"a driver for CUDA {cuda_version(needed)} or later",
        found=f"a driver for CUDA {cuda_version(found)}",
        fix="update the NVIDIA driver",
    )


def cuda_version(number: int) -> str:
    """Return 13000 as 13.0."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _bindings() -> Any:
    try:
        return import_module("cuda.bindings.driver")
    except ModuleNotFoundError as error:
        raise DeviceError(
            "Serving on a GPU needs the package cuda-bindings",
            found=f"no module {error.name}",
            fix="pip install 'warploom[cuda]'",
        ) from error


def _initialize(api: Any) -> None:
    try:
        (status,) = api.cuInit(0)
    except Exception as error:  # the library's loader has its own errors, which differ between its versions
        raise DeviceError(
            "There is no NVIDIA driver on this machine",
            expected="libcuda.so.1",
            found=str(error),
            fix="install the NVIDIA driver, or serve on the CPU with device='cpu'",
        ) from error
    if status != 0:
        _, name = api.cuGetErrorName(status)
        raise DeviceError(
            "There is no usable NVIDIA GPU on this machine",
            expected="a GPU that the driver can reach",
            found=name.decode() if name else str(status),
            fix="check `nvidia-smi` and CUDA_VISIBLE_DEVICES"
            if status == _NO_DEVICE
            else "check `nvidia-smi`; a driver update may need a reboot",
        )
