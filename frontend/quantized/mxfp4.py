"""MXFP4 experts as gpt-oss is published: `<name>_blocks` u8 [E, n, k/32, 16] and `<name>_scales` u8 [E, n, k/32].

Byte i of a block holds column 2i in its low and column 2i + 1 in its high four bits. What they stand for is a weight
[E, n, k] (see `ir/ops/mxfp4.py`), which the unquantized model calls `<name>` and stores as [E, k, n].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from warploom.errors import CheckpointError
from warploom.frontend.quantized.format import Format, Parts, Tensors
from warploom.frontend.tensors import Array, LazyTensor
from warploom.ir.layouts import split_block
from warploom.ir.ops.mxfp4 import mxfp4_values

BLOCKS, SCALES = "_blocks", "_scales"


def modules(config: Mapping[str, Any], tensors: Tensors) -> Iterator[tuple[str, Parts, tuple[str, ...]]]:
    """Every weight that is stored as blocks and scales."""
    for name, blocks in tensors.items():
        if not name.endswith(BLOCKS):
            continue
        stem = name.removesuffix(BLOCKS)
        scales = tensors.get(stem + SCALES)
        if scales is None or blocks.shape != (*scales.shape, 16) or len(scales.shape) != 3:
            raise CheckpointError(
                f"{name} has no scales that fit",
                expected=f"{stem}{SCALES} {list(blocks.shape[:-1])}, [experts, rows, groups]",
                found="none" if scales is None else str(list(scales.shape)),
                fix="download the model again",
            )
        count, n, groups = scales.shape
        types = (((count * n, groups * 16), "i8"), ((count * n, groups), "i8"))
        read = partial(_read, blocks, scales)
        whole = LazyTensor(stem, (count, groups * 32, n), "bf16", blocks.source, partial(_values, read, count))
        yield stem, Parts(types, read, whole), (name, stem + SCALES)


def rows_of_blocks(blocks: Array, scales: Array) -> tuple[Array, Array]:
    """q i8 [E * n, k / 2] and scale i8 [E * n, k / 32].

    `row4` puts the first half of the columns of a larger block into the low four bits of bytes, in order, and the
    second half into the high ones; checkpoints have neighbours in a byte.
    """
    groups = scales.shape[-1]
    half = split_block(32 * groups) // 2
    first, second = np.moveaxis(blocks.view(np.uint8).reshape(-1, 2, half // 2), 1, 0)
    q = np.empty((len(first), half), np.uint8)
    q[:, 0::2] = first & 15 | second << 4
    q[:, 1::2] = first >> 4 | second & 240
    return q.reshape(-1, 16 * groups).view(np.int8), scales.reshape(-1, groups).view(np.int8)


def _read(blocks: LazyTensor, scales: LazyTensor) -> tuple[Array, ...]:
    return rows_of_blocks(blocks.load(), scales.load())


def _values(read: partial[tuple[Array, ...]], count: int) -> Array:
    rows = mxfp4_values(*read())
    by_expert = rows.reshape(count, -1, rows.shape[-1]).transpose(0, 2, 1)
    return np.ascontiguousarray(by_expert.astype(ml_dtypes.bfloat16))


FORMAT = Format("mxfp4", modules)
