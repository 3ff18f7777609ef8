"""CUDA C++ to machine code without a GPU: NVRTC's wheel makes PTX, Triton's assembler what the GPU runs.

NVRTC is of the release that Triton's assembler is of, which would not read the PTX of a later one.
"""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import tempfile
from collections.abc import Container
from functools import cache
from pathlib import Path

PACKAGE = "nvidia-cuda-nvrtc-cu12"


class NvrtcError(Exception):
    """What the compiler or the assembler says."""


def is_cpp(options: Container[str]) -> bool:
    """Whether options of a compilation are those of CUDA C++, which says itself how much shared memory it takes."""
    return "shared_bytes" in options


def ptx_of(name: str, source: str, capability: int) -> str:
    """The PTX of a CUDA C++ source.

    Raises:
        NvrtcError: NVRTC is missing, or rejects it.
    """
    library, program = _library(), ctypes.c_void_p()
    _check(library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), f"{name}.cu".encode(), 0, None, None))
    options = [f"--gpu-architecture=compute_{capability}".encode()]
    if library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)):
        raise NvrtcError(_text(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program))
    ptx = _text(library.nvrtcGetPTXSize, library.nvrtcGetPTX, program)
    _check(library.nvrtcDestroyProgram(ctypes.byref(program)))
    return ptx


def cubin_of(ptx: str, capability: int) -> bytes:
    """The machine code of PTX.

    Raises:
        NvrtcError: the assembler of Triton's wheel rejects it.
    """
    with tempfile.TemporaryDirectory(prefix="warploom-ptxas-") as folder:
        text, code = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        text.write_text(ptx)
        command = [str(_assembler()), f"--gpu-name=sm_{capability}", "-o", str(code), str(text)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise NvrtcError(run.stderr.strip())
        return code.read_bytes()


def _text(size_of: ctypes._NamedFuncPointer, read: ctypes._NamedFuncPointer, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    _check(size_of(program, ctypes.byref(size)))
    text = ctypes.create_string_buffer(size.value)
    _check(read(program, text))
    return text.value.decode()


def _check(status: int) -> None:
    if status:
        raise NvrtcError(f"NVRTC fails with status {status}")


@cache
def _library() -> ctypes.CDLL:
    package = importlib.util.find_spec("nvidia.cuda_nvrtc")
    folders = [] if package is None else list(package.submodule_search_locations or ())
    found = [path for folder in folders for path in Path(folder, "lib").glob("libnvrtc.so.*")]
    if not found:
        raise NvrtcError(f"no {PACKAGE} is installed; pip install 'warploom[compile-cuda]'")
    return ctypes.CDLL(str(min(found)))


def _assembler() -> Path:
    package = importlib.util.find_spec("triton")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "backends" / "nvidia" / "bin" / "ptxas"
