"""Tensors that llama.cpp's converter cut, joined or turned, as Hugging Face has them.

Facts from llama.cpp (`conversion/*.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from gguf.constants import GGMLQuantizationType

from warploom.frontend.gguf_file import GGUFTensor
from warploom.frontend.gguf_values import dtype_of, read_values
from warploom.frontend.quantized.format import Parts, quantized_weight
from warploom.frontend.quantized.gguf_blocks import READERS, mxfp4_parts, parts_of
from warploom.frontend.tensors import NUMPY_DTYPES, Array, LazyTensor

Shape = tuple[int, ...]
MXFP4 = (GGMLQuantizationType.MXFP4,)
BLOCKS = tuple(READERS)


@dataclass(frozen=True)
class Join:
    """A tensor of Hugging Face's that is stored in another form, maybe as several tensors.

    Several sources are [count, n, ..], one for each expert or head; their rows become one another's neighbours.

    Attributes:
        sources: their names in a layer.
        target: its name in a layer.
        woven: rows of the sources stand in turn, not all of one after all of another.
        heads: the first source is [count, k, n], and the count is merged with the rows of the result.
        transposed: the last two axes of the result are exchanged; what stands for quantized ones stays in rows.
        added_axis: the result has a first axis of one.
        kept: kinds of blocks that are kept where all sources are of one of them.
    """

    sources: tuple[str, ...]
    target: str
    woven: bool = False
    heads: bool = False
    transposed: bool = False
    added_axis: bool = False
    kept: tuple[GGMLQuantizationType, ...] = ()

    def shape(self, sources: Sequence[Shape]) -> Shape:
        """Of the result, by those of the sources."""
        first, *others = (_swapped(sources[0]), *sources[1:]) if self.heads else sources
        result = (first[0], sum(shape[1] for shape in (first, *others)), *first[2:]) if others else first
        result = (result[0] * result[1], *result[2:]) if self.heads else result
        result = _swapped(result) if self.transposed else result
        return (1, *result) if self.added_axis else result

    def values(self, sources: Sequence[Array]) -> Array:
        """The result."""
        first, *others = sources
        result = self.rows([first.swapaxes(-1, -2) if self.heads else first, *others])
        result = result.swapaxes(-1, -2) if self.transposed else result
        return np.ascontiguousarray(result).reshape(self.shape([source.shape for source in sources]))

    def rows(self, sources: Sequence[Array]) -> Array:
        """[count, n, ..] of all sources as one."""
        if len(sources) == 1:
            return sources[0]
        if not self.woven:
            return np.concatenate(sources, 1)
        count, n, *rest = sources[0].shape
        return np.stack(sources, 2).reshape(count, len(sources) * n, *rest)


def restored(join: Join, name: str, tensors: Sequence[GGUFTensor], source: str) -> LazyTensor:
    """The tensor `name` of Hugging Face's, of its sources in order."""
    dtypes = {dtype_of(tensor.kind) for tensor in tensors}
    dtype = dtypes.pop() if len(dtypes) == 1 else "f32"

    def read() -> Array:
        return join.values([read_values(tensor).astype(NUMPY_DTYPES[dtype], copy=False) for tensor in tensors])

    whole = LazyTensor(name, join.shape([tensor.shape for tensor in tensors]), dtype, source, read)
    parts = _parts(join, tensors)
    return whole if parts is None else next(iter(quantized_weight(name, replace(parts, whole=whole), source).values()))


def _parts(join: Join, tensors: Sequence[GGUFTensor]) -> Parts | None:
    """Numbers, scales and maybe offsets, whose rows are joined as those of floats."""
    if len({tensor.kind for tensor in tensors}) > 1 or tensors[0].kind not in join.kept:
        return None
    each = [_rows_of(tensor) for tensor in tensors]
    types = tuple(
        ((sum(parts.types[i][0][0] for parts in each), shape[1]), dtype)
        for i, (shape, dtype) in enumerate(each[0].types)
    )

    def read() -> tuple[Array, ...]:
        found = zip(*(parts.read() for parts in each), strict=True)
        return tuple(
            _joined(join, tensors, arrays).reshape(shape) for arrays, (shape, _) in zip(found, types, strict=True)
        )

    return Parts(types, read)


def _rows_of(tensor: GGUFTensor) -> Parts:
    matrix = replace(tensor, shape=(prod(tensor.shape[:-1]), tensor.shape[-1]))
    parts = mxfp4_parts(matrix) if tensor.kind in MXFP4 else parts_of(matrix, np.asarray)
    assert parts is not None  # the kind is one of those kept
    return parts


def _joined(join: Join, tensors: Sequence[GGUFTensor], arrays: Sequence[Array]) -> Array:
    return join.rows([array.reshape(*tensor.shape[:-1], -1) for tensor, array in zip(tensors, arrays, strict=True)])


def _swapped(shape: Shape) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2])
