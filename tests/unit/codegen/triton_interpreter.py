"""Runs the source of a CUDA kernel in Triton's interpreter, on numpy arrays and without a GPU.

`run_kernel` is what tests call. The interpreter is chosen by an environment variable before triton is imported, so it
lives in a process of its own: this module run as a program, one pickled job after another.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

Block = tuple[int, ...] | None  # what a tensor map moves at once; None: the kernel gets an address
Job = tuple[str, str, list[np.ndarray], list[Block], list[int], tuple[int, ...]]  # name, source, arrays, .., dims, grid


def run_kernel(spec: Any, arrays: Sequence[np.ndarray], dims: Mapping[str, int]) -> None:
    """Run a `CudaKernelSpec` for all blocks of its grid, one after another; arrays are overwritten.

    The spec must be one without programmatic dependent launch, whose instructions are no Triton.
    """
    from warploom.runtime.expr import evaluate

    assert not spec.options.pdl
    assert [str(operand.dtype) for operand in spec.operands] == [_NAMES[array.dtype.name] for array in arrays]
    grid = tuple(evaluate(extent, dims) for extent in spec.grid)
    blocks = [getattr(operand, "block", None) for operand in spec.operands]
    job = spec.name, spec.source(), list(arrays), blocks, [dims[name] for name in spec.dims], grid
    worker = _worker()
    assert worker.stdin is not None
    assert worker.stdout is not None
    pickle.dump(job, worker.stdin)
    worker.stdin.flush()
    answer = pickle.load(worker.stdout)
    assert not isinstance(answer, str), answer
    for array, result in zip(arrays, answer, strict=True):
        array[...] = result


@cache
def _worker() -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, __file__]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    atexit.register(_end, worker)
    return worker


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.communicate()  # the end of its stdin ends it


_NAMES = {
    "float32": "f32",
    "bfloat16": "bf16",
    "float8_e4m3fn": "f8e4m3",
    "float16": "f16",
    "int32": "i32",
    "int64": "i64",
    "int8": "i8",
    "bool": "i1",
}


class _DType(str):
    """Name of a dtype, and its size."""

    itemsize: int


class _Array:
    """A numpy array as the interpreter wants its tensors: with torch's names."""

    def __init__(self, array: np.ndarray | None = None) -> None:
        self.array = array

    @property
    def dtype(self) -> _DType:
        assert self.array is not None
        name = _DType({"bool": "int1"}.get(self.array.dtype.name, self.array.dtype.name))
        name.itemsize = self.array.itemsize
        return name

    def data_ptr(self) -> int:
        assert self.array is not None
        return self.array.ctypes.data

    def new_empty(self, *_: Any, **__: Any) -> _Array:
        return _Array()

    def set_(self, storage: _Array, *_: Any) -> None:
        self.array = storage.array

    def untyped_storage(self) -> _Array:
        return self

    cpu = untyped_storage

    def storage_offset(self) -> int:
        return 0

    size = stride = storage_offset

    def copy_(self, _: _Array) -> None:
        """It is the same memory."""


def _serve() -> None:
    """Run jobs until stdin ends."""
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what kernels print is no answer
    _mend()
    with tempfile.TemporaryDirectory() as folder:
        while jobs.peek(1):
            try:
                answer: list[np.ndarray] | str = _run(pickle.load(jobs), Path(folder))
            except Exception:
                answer = traceback.format_exc()
            pickle.dump(answer, answers)
            answers.flush()


def _mend() -> None:
    """What Triton 3.6 gets wrong: loops to scalars of kernels (NumPy 2.4), products and casts of narrow floats; fma."""
    import ml_dtypes
    from ptx_instructions import run_ptx, words  # beside this file, which is run as a script
    from triton import language as tl
    from triton.runtime import interpreter

    patch_tensor, create_dot = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot

    def patched(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    narrow = {tl.bfloat16: ml_dtypes.bfloat16, tl.float8e4nv: ml_dtypes.float8_e4m3fn}
    floats = narrow | {tl.float32: np.float32, tl.float16: np.float16}

    def widened(x: Any) -> Any:
        if x.dtype.scalar not in narrow:
            return x
        return interpreter.TensorHandle(x.data.view(narrow[x.dtype.scalar]).astype(np.float32), tl.float32)

    def rounded(data: Any, source: Any, target: Any, _: Any) -> Any:
        wide = data.view(floats[source]).astype(np.float32)
        largest = 448 if target == tl.float8e4nv else np.inf
        found = wide.clip(-largest, largest).astype(floats[target])
        return found.view(f"u{found.itemsize}")

    cast = interpreter.InterpreterBuilder.cast_impl

    def cast_integers(self: Any, x: Any, target: Any) -> Any:
        if target.scalar in narrow and x.dtype.scalar not in floats:
            x = interpreter.TensorHandle(x.data.astype(np.float32), tl.float32)
        return cast(self, x, target)

    def fma(_: Any, x: Any, y: Any, z: Any) -> Any:
        wide = x.data.astype(np.float64) * y.data + z.data
        return interpreter.TensorHandle(wide.astype(x.data.dtype), x.dtype.scalar)

    def inline(_: Any, asm: str, constraints: str, args: Any, types: Any, pure: bool, pack: int) -> Any:
        shape = args[0].data.shape
        inputs = [words(arg.data, pack) for arg in args]
        outputs = run_ptx(asm, [word for words in inputs for word in words], constraints.count("="))
        each = len(outputs) // len(types)
        parts = (np.stack(outputs[i : i + each], -1) for i in range(0, len(outputs), each))
        handles = []
        for part, dtype in zip(parts, types, strict=True):
            bits = dtype.scalar.primitive_bitwidth
            view = np.float32 if bits == 32 else np.uint16
            handles.append(interpreter.TensorHandle(part.view(view).reshape(shape), dtype.scalar))
        return SimpleNamespace(get_result=handles.__getitem__)

    interpreter.InterpreterBuilder.create_inline_asm = inline
    interpreter._patch_lang_tensor = patched
    interpreter._convert_float = rounded
    interpreter.InterpreterBuilder.cast_impl = cast_integers
    interpreter.InterpreterBuilder.create_fma = fma
    interpreter.InterpreterBuilder.create_dot = lambda self, a, b, *rest: create_dot(
        self, widened(a), widened(b), *rest
    )


def _run(job: Job, folder: Path) -> list[np.ndarray]:
    name, source, arrays, blocks, dims, grid = job
    path = folder / f"{name}.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    operands = [_operand(array, block) for array, block in zip(arrays, blocks, strict=True)]
    getattr(module, name)[grid](*operands, *dims)
    return arrays


def _operand(array: np.ndarray, block: Block) -> Any:
    """A tensor map has the shape of the array; `array` must be shaped so."""
    if block is None:
        return _Array(array)
    from triton.tools.tensor_descriptor import TensorDescriptor

    strides = [stride // array.itemsize for stride in array.strides]
    return TensorDescriptor(_Array(array), list(array.shape), strides, list(block))


if __name__ == "__main__":
    _serve()
