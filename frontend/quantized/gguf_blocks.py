"""Weights of GGUF files in their own numbers, for kinds of blocks that kernels read.

Blocks as ggml lays them out (ggml-common.h): Q8_0 f16 d, 32 i8; Q4_0 f16 d, 16 bytes whose low four bits are the first
half; Q4_1 the same after f16 d, m; Q4_K, 256 numbers: f16 d, dmin, 12 bytes of eight 6-bit scales and minima, 128
bytes. Q8_0 is q * d, Q4_0 (q - 8) * d, Q4_1 q * d + m, Q4_K q * (d * scale) - dmin * minimum. MXFP4: the byte of the
scale, 16 bytes whose low four bits are the first half; numbers are those of `ir/ops/mxfp4.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from warploom.frontend.gguf_file import GGUFTensor
from warploom.frontend.quantized.format import Parts, signed
from warploom.frontend.tensors import Array
from warploom.ir.layouts import pack_array

GROUP = 32
Rows = Callable[[Array], Array]
Bytes = NDArray[np.uint8]


def parts_of(tensor: GGUFTensor, reorder: Rows) -> Parts | None:
    """The parts of a matrix whose rows `reorder` brings into order, or None: its kind has no kernel of its own."""
    if tensor.kind not in READERS or len(tensor.shape) != 2:
        return None
    n, k = tensor.shape
    dtype, num_sides = ("i8", 1) if tensor.kind is GGMLQuantizationType.Q8_0 else ("i4", 2)
    num_sides = 1 if tensor.kind is GGMLQuantizationType.Q4_0 else num_sides
    side = ((n, k // GROUP), "f16")

    def read() -> tuple[Array, ...]:
        _, size = GGML_QUANT_SIZES[tensor.kind]
        q, *sides = READERS[tensor.kind](tensor.data.reshape(-1, size))
        return tuple(
            reorder(np.ascontiguousarray(part.reshape(shape)).astype(part.dtype))
            for part, shape in zip((q, *sides), ((n, k), *[(n, k // GROUP)] * len(sides)), strict=True)
        )

    return Parts((((n, k), dtype), *[side] * num_sides), read)


def mxfp4_parts(tensor: GGUFTensor) -> Parts:
    """q i8 [n, k / 2] and scale i8 [n, k / 32] of a matrix of MXFP4 (see `ir/ops/mxfp4.py`)."""
    n, k = tensor.shape

    def read() -> tuple[Array, ...]:
        blocks = tensor.data.reshape(n, k // GROUP, -1)
        codes = _halves(blocks[..., 1:]).astype(np.int8).reshape(n, k)
        return pack_array(codes - np.int8(8), "row4"), np.ascontiguousarray(blocks[..., 0]).view(np.int8)

    return Parts((((n, k // 2), "i8"), ((n, k // GROUP), "i8")), read)


def _halves(nibbles: Bytes) -> NDArray[np.int16]:
    """[.., m] bytes as [.., 2m] unsigned numbers: the low four bits of all, then the high ones."""
    return np.concatenate((nibbles & 15, nibbles >> 4), -1).astype(np.int16)


def _q8_0(blocks: Bytes) -> tuple[Array, ...]:
    return blocks[:, 2:].view(np.int8), blocks[:, :2].copy().view(np.float16)


def _q4_0(blocks: Bytes) -> tuple[Array, ...]:
    return signed(_halves(blocks[:, 2:]), 4), blocks[:, :2].copy().view(np.float16)


def _q4_1(blocks: Bytes) -> tuple[Array, ...]:
    scale, low = (blocks[:, i : i + 2].copy().view(np.float16).astype(np.float32) for i in (0, 2))
    return signed(_halves(blocks[:, 4:]), 4), scale.astype(np.float16), (low + 8 * scale).astype(np.float16)


def _q4_k(blocks: Bytes) -> tuple[Array, ...]:
    d, dmin = (blocks[:, i : i + 2].copy().view(np.float16).astype(np.float32) for i in (0, 2))
    packed = blocks[:, 4:16].astype(np.int16)
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate((first & 63, (third & 15) | (first >> 6 << 4)), 1)
    minima = np.concatenate((second & 63, (third >> 4) | (second >> 6 << 4)), 1)
    scale = d * scales
    numbers = signed(_halves(blocks[:, 16:].reshape(-1, 4, 32)), 4)  # each 32 bytes are two groups
    return numbers, scale.astype(np.float16), (8 * scale - dmin * minima).astype(np.float16)


READERS: Mapping[GGMLQuantizationType, Callable[[Bytes], tuple[Array, ...]]] = {
    GGMLQuantizationType.Q8_0: _q8_0,
    GGMLQuantizationType.Q4_0: _q4_0,
    GGMLQuantizationType.Q4_1: _q4_1,
    GGMLQuantizationType.Q4_K: _q4_k,
}
