"""Pickled PyTorch checkpoints (`pytorch_model.bin`), the one place that imports torch.

Only `torch.load(weights_only=True)` is used: it unpickles tensors and plain containers and refuses everything else, so
that a checkpoint cannot run code.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend.mapped_file import map_file
from warploom.frontend.tensors import NUMPY_DTYPES, Array, LazyTensor

if TYPE_CHECKING:
    import torch

DTYPES = {
    "torch.float64": "f64",
    "torch.float32": "f32",
    "torch.float16": "f16",
    "torch.bfloat16": "bf16",
    "torch.int64": "i64",
    "torch.int32": "i32",
    "torch.int16": "i16",
    "torch.int8": "i8",
    "torch.uint8": "u8",
    "torch.bool": "i1",
}


def read_pickle(path: Path) -> dict[str, LazyTensor]:
    """The tensors of one pickled state dict, by name; their data stays in the mapped file.

    Raises:
        CheckpointError: the file is missing, corrupt, holds something other than tensors, or torch is not installed.
        UnsupportedModelError: a tensor has a dtype outside `DTYPES`.
    """
    map_file(path)  # names what is wrong with a missing or empty file better than torch does
    state = _load_state(path)
    if not isinstance(state, dict):
        raise _not_a_state_dict(path, type(state).__name__)
    return {str(name): _lazy_tensor(path, str(name), value) for name, value in state.items()}


def _load_state(path: Path) -> object:
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a pickled PyTorch checkpoint, and torch is not installed",
            expected="torch",
            found=str(error),
            fix="pip install torch, or use a checkpoint in safetensors format",
        ) from error
    try:
        state: object = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, KeyError, ... for a bad file
        raise CheckpointError(
            f"{path} cannot be read as a pickled PyTorch checkpoint",
            expected="a state dict of tensors, complete",
            found=f"{path.stat().st_size} bytes: {_first_line(error)}",
            fix="download the file again, or use a checkpoint in safetensors format",
        ) from error
    return state


def _is_zip(path: Path) -> bool:
    """Whether torch can map the file: its format before 1.6 is a bare pickle and cannot be mapped."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _not_a_state_dict(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a state dict",
        expected="a dict of tensors by name",
        found=found,
        fix="save model.state_dict() rather than the model or a training checkpoint",
    )


def _lazy_tensor(path: Path, name: str, value: object) -> LazyTensor:
    import torch

    if not isinstance(value, torch.Tensor):
        raise _not_a_state_dict(path, f"{type(value).__name__} at {name!r}")
    dtype = DTYPES.get(str(value.dtype))
    if dtype is None:
        raise UnsupportedModelError(
            f"tensor {name} in {path} has a dtype that is not supported",
            expected=f"one of {', '.join(DTYPES)}",
            found=str(value.dtype),
            fix="convert the checkpoint to bfloat16, for example with transformers' save_pretrained",
        )
    shape = tuple(value.shape)
    return LazyTensor(name=name, shape=shape, dtype=dtype, source=str(path), read=partial(_to_numpy, value, dtype))


def _to_numpy(value: torch.Tensor, dtype: str) -> Array:
    """The tensor's values; bf16 goes through its bit pattern because torch knows no numpy type for it."""
    import torch

    tensor = value.detach().contiguous()
    if dtype == "bf16":
        tensor = tensor.view(torch.int16)
    array: Array = tensor.numpy()
    return array.view(NUMPY_DTYPES[dtype])
