"""GPTQ checkpoints of four or eight bits (Frantar et al. 2022; the packing of AutoGPTQ and GPTQModel).

qweight i32 [k * bits/32, n] is packed along k, qzeros i32 [groups, n * bits/32] along n, scales f16 [groups, n].
A weight is (q - zero) * scale; `checkpoint_format` gptq stores zero - 1, gptq_v2 zero itself. With `desc_act` g_idx [k]
names the group of each column: such groups are no neighbours, and the weight is read as floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from warploom.frontend.quantized.format import Format, Parts, Tensors, fields, refuse, signed
from warploom.frontend.tensors import Array, LazyTensor


def modules(config: Mapping[str, Any], tensors: Tensors) -> Iterator[tuple[str, Parts, tuple[str, ...]]]:
    """Every module that has a qweight."""
    bits, kind = config.get("bits"), config.get("checkpoint_format", "gptq")
    if bits not in (4, 8) or kind not in ("gptq", "gptq_v2"):
        raise refuse("this variant of GPTQ is not supported", "4 or 8 bits, gptq or gptq_v2", f"{bits} bits, {kind}")
    assert isinstance(bits, int)
    for name, packed in tensors.items():
        if name.endswith(".qweight"):
            path = name.removesuffix(".qweight")
            wanted = (f"{path}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx"))
            sources = tuple(part for part in wanted if part in tensors)
            k, n, groups = packed.shape[0] * (32 // bits), packed.shape[1], tensors[f"{path}.scales"].shape[0]
            side = ((n, groups), "f32")
            read = partial(_read, tensors, sources, bits, 1 if kind == "gptq" else 0)
            if f"{path}.g_idx" in tensors and not _is_ordered(tensors[f"{path}.g_idx"].load(), k // groups):
                yield path, Parts((((n, k), "f32"),), partial(_read_floats, read, tensors[f"{path}.g_idx"])), sources
                continue
            yield path, Parts((((n, k), "i4" if bits == 4 else "i8"), side, side), read), sources


def _read(tensors: Tensors, sources: tuple[str, ...], bits: int, zero_bias: int) -> tuple[Array, ...]:
    qweight, qzeros, scales = (tensors[name].load() for name in sources[:3])
    q = signed(fields(qweight, bits, 0), bits).T
    zeros = fields(qzeros, bits, 1).T + zero_bias - (1 << (bits - 1))
    scale = scales.T.astype(np.float32)
    return np.ascontiguousarray(q), scale, -zeros.astype(np.float32) * scale


def _read_floats(read: Callable[[], tuple[Array, ...]], indices: LazyTensor) -> tuple[Array]:
    """The values of a weight each column of which names its group."""
    q, scale, offset = read()
    group = indices.load()
    wide, shift = scale.astype(np.float32)[:, group], offset.astype(np.float32)[:, group]
    return (q.astype(np.float32) * wide + shift,)


def _is_ordered(groups: Array, size: int) -> bool:
    return bool(np.array_equal(groups, np.arange(len(groups)) // size))


FORMAT = Format("gptq", modules)
