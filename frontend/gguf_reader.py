"""GGUF checkpoints as Hugging Face would name and order them.

llama.cpp's converter (conversion/llama.py, `LlamaModel.permute`) reorders the rows of q_proj and k_proj of some
families within each head from rotate-half order (all first halves, then all second halves) to interleaved pairs, and
adds 1 to the norms of others; that is undone here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend.gguf_families import gguf_family, hf_modules
from warploom.frontend.gguf_file import GGUFFile, GGUFTensor
from warploom.frontend.quantized.format import quantized_weight
from warploom.frontend.quantized.gguf_blocks import parts_of
from warploom.frontend.tensors import NUMPY_DTYPES, Array, LazyTensor

# Kinds that are kept as they are stored; every other kind is dequantized to f32.
PLAIN_KINDS: Mapping[GGMLQuantizationType, str] = {
    GGMLQuantizationType.F32: "f32",
    GGMLQuantizationType.F16: "f16",
    GGMLQuantizationType.BF16: "bf16",
}
TENSOR = re.compile(r"(.+)\.(weight|bias)")
HEADS = re.compile(r"blk\.\d+\.attn_(q|k|qkv)\.")
Reorder = Callable[[Array], Array]  # rows [n, ...] to the same rows in another order
ROPE_FACTORS, SHORT_FACTORS, LONG_FACTORS = (
    f"rope_{name}.weight" for name in ("freqs", "factors_short", "factors_long")
)  # go into the config's rope_scaling


def read_gguf_tensors(file: GGUFFile, config: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """The tensors of a GGUF under Hugging Face names, and as Hugging Face has them; no data is read.

    Args:
        file: the file.
        config: of `config_from_gguf`.

    Raises:
        CheckpointError: the rows of a q or k projection do not divide into heads.
        UnsupportedModelError: the file holds a tensor that its family does not have (experts, LoRA).
    """
    name, family = gguf_family(file)
    modules = hf_modules(name, family, config["num_hidden_layers"])
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    reorders: dict[str, tuple[int, Reorder]] = {}  # by projection: what must divide its rows, and their order
    if family.permuted:
        reorders = {
            which: (2 * count, partial(undo_permute, num_heads=count))
            for which, count in (("q", heads), ("k", kv_heads))
        }
    if family.separated:
        reorders = {"qkv": (heads + 2 * kv_heads, partial(undo_separate, num_heads=heads, num_kv_heads=kv_heads))}
    stored = (t for t in file.tensors.values() if t.name not in (ROPE_FACTORS, SHORT_FACTORS, LONG_FACTORS))
    found: dict[str, LazyTensor] = {}
    for tensor in stored:
        for name, one in _each(tensor, _name(file.path, tensor, modules)):
            found[name] = _lazy_tensor(file.path, one, name, reorders, family.norm_offset)
    return found


def undo_permute(rows: Array, num_heads: int) -> Array:
    """Rows from llama.cpp's interleaved rotary order back to rotate-half order.

    Args:
        rows: [num_heads * head_dim, ...]; within a head, row 2i + j is row j * head_dim/2 + i of the original.
        num_heads: heads among the rows.
    """
    pairs = rows.reshape(num_heads, rows.shape[0] // num_heads // 2, 2, *rows.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def undo_separate(rows: Array, num_heads: int, num_kv_heads: int) -> Array:
    """Rows of all q, all k, all v back to the order in which each kv head has its queries, its key, its value.

    Args:
        rows: [(num_heads + 2 * num_kv_heads) * head_dim, ...].
        num_heads: of the queries.
        num_kv_heads: of keys, and of values.
    """
    size, rest = rows.shape[0] // (num_heads + 2 * num_kv_heads), rows.shape[1:]
    parts = np.split(rows, [num_heads * size, (num_heads + num_kv_heads) * size])
    by_head = [part.reshape(num_kv_heads, -1, *rest) for part in parts]
    return np.concatenate(by_head, axis=1).reshape(rows.shape)


def _name(path: Path, tensor: GGUFTensor, modules: Mapping[str, str]) -> str:
    """Hugging Face's name; of stacked experts without their index."""
    match = TENSOR.fullmatch(tensor.name)
    module = modules.get(match[1]) if match else None
    if match is None or module is None:
        raise UnsupportedModelError(
            f"{path} holds a tensor that a model of its architecture does not have",
            expected=f"tensors named {', '.join(modules)}",
            found=tensor.name,
            fix="use a model without adapters",
        )
    return f"{module}.{match[2]}"


def _each(tensor: GGUFTensor, name: str) -> Iterator[tuple[str, GGUFTensor]]:
    """The tensor, or those of each expert where it stacks them; what the converter squeezed is a matrix again."""
    if name.endswith("shared_expert_gate.weight"):
        yield name, replace(tensor, shape=(1, *tensor.shape[-1:]))
    elif ".experts." not in name:
        yield name, tensor
    else:
        count, *shape = tensor.shape
        for index, data in enumerate(tensor.data.reshape(count, -1)):
            yield name.replace(".experts.", f".experts.{index}."), replace(tensor, shape=tuple(shape), data=data)


def _lazy_tensor(
    path: Path,
    tensor: GGUFTensor,
    name: str,
    reorders: Mapping[str, tuple[int, Reorder]],
    norm_offset: float,
) -> LazyTensor:
    dtype, read = PLAIN_KINDS.get(tensor.kind, "f32"), partial(read_values, tensor)
    reorder: Reorder = np.asarray
    if (projection := HEADS.match(tensor.name)) and projection[1] in reorders:
        divisor, reorder = reorders[projection[1]]
        _check_rows(path, tensor, divisor)
        read = partial(_read_reordered, tensor, reorder)
    elif norm_offset and "norm" in name and name.endswith(".weight"):
        dtype, read = "f32", partial(_read_lowered, tensor, norm_offset)
    parts = parts_of(tensor, reorder)
    found = () if parts is None else tuple(quantized_weight(name, parts, str(path)).values())[1:]
    return LazyTensor(name, tensor.shape, dtype, str(path), read, found)


def _check_rows(path: Path, tensor: GGUFTensor, divisor: int) -> None:
    if tensor.shape[0] % divisor:
        raise CheckpointError(
            f"tensor {tensor.name} in {path} has the wrong shape",
            expected=f"rows that make whole heads: a multiple of {divisor}",
            found=str(list(tensor.shape)),
            fix="download the file again",
        )


def _read_reordered(tensor: GGUFTensor, reorder: Reorder) -> Array:
    return reorder(read_values(tensor))


def _read_lowered(tensor: GGUFTensor, offset: float) -> Array:
    return read_values(tensor).astype(np.float32) - np.float32(offset)


def read_values(tensor: GGUFTensor) -> Array:
    """The values of a stored tensor in its own row order: plain kinds as a view, quantized kinds as new f32."""
    if tensor.kind in PLAIN_KINDS:
        return np.frombuffer(tensor.data, NUMPY_DTYPES[PLAIN_KINDS[tensor.kind]]).reshape(tensor.shape)
    block_rows: NDArray[np.uint8] = tensor.data.reshape(*tensor.shape[:-1], -1)
    values: Array = dequantize(block_rows, tensor.kind)
    return values.reshape(tensor.shape)
