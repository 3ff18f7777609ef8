"""The artifact's kernels, loaded into the GPU's context."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from warploom.errors import ArtifactError, DeviceError
from warploom.runtime.cuda.driver import Driver
from warploom.runtime.plan import CudaInfo, KernelInfo

Function: TypeAlias = Any  # CUfunction
_FREE_SHARED_BYTES = 48 << 10  # what a block may have without asking


class Modules:
    """The kernels that some entries launch.

    Args:
        folder: of the artifact, which the plan's paths start from.
        form: machine code, or PTX, which the driver translates now and keeps in its own cache.

    Attributes:
        functions: by kernel name.

    Raises:
        ArtifactError: a kernel is not in the plan or has no CUDA facts.
        DeviceError: the driver refuses one.
    """

    def __init__(
        self,
        driver: Driver,
        folder: Path,
        kernels: Mapping[str, KernelInfo],
        names: Iterable[str],
        form: Literal["cubin", "ptx"],
    ) -> None:
        self._driver = driver
        self._modules: list[Any] = []
        self.functions: dict[str, Function] = {}
        for name in sorted(set(names)):
            info = cuda_info(kernels, name)
            path = folder / (info.cubin if form == "cubin" else info.ptx)
            self.functions[name] = self._load(name, info, path.read_bytes() + b"\0")  # PTX is text that ends there

    def unload(self) -> None:
        """Remove the kernels from the context."""
        while self._modules:
            self._driver.release("cuModuleUnload", self._modules.pop())

    def _load(self, name: str, info: CudaInfo, image: bytes) -> Function:
        driver = self._driver
        try:
            module = driver.call("cuModuleLoadData", image)
            self._modules.append(module)
            function = driver.call("cuModuleGetFunction", module, name.encode())
            if info.shared_bytes > _FREE_SHARED_BYTES:
                attribute = driver.api.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                driver.call("cuFuncSetAttribute", function, attribute, info.shared_bytes)
        except DeviceError as error:
            raise DeviceError(
                f"The kernel {name} cannot be loaded",
                expected=f"a GPU that gives a block {info.shared_bytes} bytes of shared memory",
                found=f"{driver.gpu.name}: {error.what}: {error.found}",
                fix=f"compile the model with target='cuda:sm_{driver.gpu.capability}'",
            ) from error
        return function


def cuda_info(kernels: Mapping[str, KernelInfo], name: str) -> CudaInfo:
    """Return how to launch a kernel; ArtifactError if the plan does not say."""
    info = kernels.get(name)
    if info is None or info.cuda is None:
        raise ArtifactError(
            f"The plan does not say how to launch the kernel {name!r}",
            expected="CUDA facts of every kernel",
            found="no such kernel" if info is None else "a kernel of another target",
            fix="compile the model again",
        )
    return info.cuda
