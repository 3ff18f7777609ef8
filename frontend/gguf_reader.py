"""GGUF checkpoints as Hugging Face would name and order them.

llama.cpp's converter (conversion/llama.py, `LlamaModel.permute`) reorders the rows of q_proj and k_proj of some
families within each head from rotate-half order (all first halves, then all second halves) to interleaved pairs, and
adds 1 to the norms of others; that is undone here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from gguf.constants import GGMLQuantizationType

from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend.gguf_families import LAYER, Counts, GGUFFamily, gguf_family, hf_modules
from warploom.frontend.gguf_file import GGUFFile, GGUFTensor
from warploom.frontend.gguf_metadata import Metadata
from warploom.frontend.gguf_restore import Join, restored
from warploom.frontend.gguf_values import LONG_FACTORS, PLAIN_KINDS, ROPE_FACTORS, SHORT_FACTORS, dtype_of, read_values
from warploom.frontend.quantized.format import quantized_weight
from warploom.frontend.quantized.gguf_blocks import READERS, mxfp4_parts, parts_of
from warploom.frontend.tensors import Array, LazyTensor

TENSOR = re.compile(r"(.+)\.(weight|bias)")
HEADS = re.compile(r"blk\.\d+\.attn_(q|k|qkv)\.")
Reorder = Callable[[Array], Array]  # rows [n, ...] to the same rows in another order


def read_gguf_tensors(file: GGUFFile) -> dict[str, LazyTensor]:
    """The tensors of a GGUF under Hugging Face names, and as Hugging Face has them; no data is read.

    Raises:
        CheckpointError: the rows of a q or k projection do not divide into heads; a part of a tensor is missing.
        UnsupportedModelError: the file holds a tensor that its family does not have (experts, LoRA).
    """
    name, family = gguf_family(file)
    counts = Counts.of(Metadata(file, f"{name}."))
    modules, reorders = hf_modules(name, family, counts.layers), _reorders(family, counts)
    stored = {_name(file.path, tensor, modules): tensor for tensor in file.tensors.values() if _counts(tensor, counts)}
    found: dict[str, LazyTensor] = {}
    for target, join, sources in _joins(file, family, stored):
        found[target] = restored(join, target, [stored.pop(source) for source in sources], str(file.path))
    for name, tensor in stored.items():
        for each, one in _each(tensor, name):
            found[each] = _lazy_tensor(file.path, one, each, reorders, family.norm_offset)
    return found


def expanded_kinds(file: GGUFFile) -> list[str]:
    """What is said of quantized tensors whose numbers no kernels read, so that nothing keeps them."""
    kept = (*PLAIN_KINDS, *READERS, GGMLQuantizationType.MXFP4)
    kinds = Counter(tensor.kind.name for tensor in file.tensors.values() if tensor.kind not in kept)
    return [f"{n} tensors of {kind} are stored in bf16: no kernels read that kind" for kind, n in sorted(kinds.items())]


def _counts(tensor: GGUFTensor, counts: Counts) -> bool:
    """Whether it is one of the model's: neither factors, which are in the config, nor of what predicts further."""
    layer = LAYER.match(tensor.name)
    factors = (ROPE_FACTORS, SHORT_FACTORS, LONG_FACTORS)
    return tensor.name not in factors and not (layer and int(layer[1]) >= counts.layers)


def _reorders(family: GGUFFamily, counts: Counts) -> dict[str, tuple[int, Reorder]]:
    """By projection: what must divide its rows, and their order."""
    heads, kv_heads = counts.heads, counts.kv_heads
    if family.permuted:
        return {which: (2 * n, partial(undo_permute, num_heads=n)) for which, n in (("q", heads), ("k", kv_heads))}
    if family.separated:
        return {"qkv": (heads + 2 * kv_heads, partial(undo_separate, num_heads=heads, num_kv_heads=kv_heads))}
    return {}


def _joins(file: GGUFFile, family: GGUFFamily, stored: Mapping[str, GGUFTensor]) -> list[tuple[str, Join, list[str]]]:
    """The tensors that are stored in another form: name, form, the names of what they are made of."""
    found = []
    for join in family.joins:
        for first in [name for name in stored if name.endswith(f".{join.sources[0]}")]:
            layer = first.removesuffix(join.sources[0])
            sources = [layer + source for source in join.sources]
            if missing := [source for source in sources if source not in stored]:
                raise CheckpointError(
                    f"GGUF file {file.path} lacks what {layer}{join.target} is made of",
                    expected=", ".join(sources),
                    found=f"no {missing[0]}",
                    fix="download the file again",
                )
            found.append((layer + join.target, join, sources))
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
    dtype, read = dtype_of(tensor.kind), partial(read_values, tensor)
    reorder: Reorder = np.asarray
    if (projection := HEADS.match(tensor.name)) and projection[1] in reorders:
        divisor, reorder = reorders[projection[1]]
        _check_rows(path, tensor, divisor)
        read = partial(_read_reordered, tensor, reorder)
    elif norm_offset and "norm" in name and name.endswith(".weight"):
        dtype, read = "f32", partial(_read_lowered, tensor, norm_offset)
    is_mxfp4 = tensor.kind is GGMLQuantizationType.MXFP4 and ".experts." in name  # which alone have kernels for it
    parts = mxfp4_parts(tensor) if is_mxfp4 else parts_of(tensor, reorder)
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
