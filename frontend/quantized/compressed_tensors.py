"""Checkpoints of compressed-tensors (vllm-project/compressed-tensors), as llm-compressor writes them.

- `float-quantized`: weight f8 [n, k], weight_scale [n, 1] or [1];
- `int-quantized`, `naive-quantized`: weight i8 (or f8), the same scales;
- `pack-quantized`: weight_packed i32 [n, k * bits/32], each number + 2^(bits - 1), the low ones first; weight_scale
  [n, groups]; weight_zero_point i32 [n * bits/32, groups], packed along n, where the scheme is asymmetric.

A weight is (q - zero) * scale. The static scale of the input of an FP8 linear is input_scale [1].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warploom.frontend.quantized.format import Format, Parts, Tensors, fields, refuse, signed
from warploom.frontend.tensors import Array

KINDS = ("float-quantized", "int-quantized", "naive-quantized", "pack-quantized")
OTHERS = ("weight_shape", "weight_zero_point", "weight_g_idx", "input_scale", "output_scale")


def modules(config: Mapping[str, Any], tensors: Tensors) -> Iterator[tuple[str, Parts, tuple[str, ...]]]:
    """Every module that has a weight_scale."""
    kind = config.get("format")
    if kind not in KINDS:
        raise refuse("this format of compressed-tensors is not supported", ", ".join(KINDS), kind)
    for name in tensors:
        if name.endswith(".weight_scale"):
            path = name.removesuffix(".weight_scale")
            weight = f"{path}.weight_packed" if f"{path}.weight_packed" in tensors else f"{path}.weight"
            others = tuple(f"{path}.{other}" for other in OTHERS if f"{path}.{other}" in tensors)
            sources = (weight, name, *others)
            yield path, _parts(config, tensors, path, sources), sources


def _parts(config: Mapping[str, Any], tensors: Tensors, path: str, sources: tuple[str, ...]) -> Parts:
    weight, scale = tensors[sources[0]], tensors[sources[1]]
    if f"{path}.weight_g_idx" in tensors:
        raise refuse(f"{path}: groups of columns that are no neighbours are not supported", "no weight_g_idx", path)
    n, groups = weight.shape[0], scale.shape[1] if len(scale.shape) > 1 else 1
    if not sources[0].endswith("_packed"):
        return Parts(((weight.shape, weight.dtype), ((n, groups), "f32")), partial(_read_plain, tensors, sources))
    bits = _bits(config)
    types = (((n, weight.shape[1] * (32 // bits)), f"i{bits}"), ((n, groups), "f32"))
    zeros = f"{path}.weight_zero_point"
    if zeros not in tensors:
        return Parts(types, partial(_read_packed, tensors, sources, bits, None))
    return Parts((*types, types[1]), partial(_read_packed, tensors, sources, bits, zeros))


def _bits(config: Mapping[str, Any]) -> int:
    found = {group["weights"]["num_bits"] for group in config.get("config_groups", {}).values() if group.get("weights")}
    if len(found) != 1 or not found <= {4, 8}:
        raise refuse("packed weights must have one width", "4 or 8 bits", sorted(found))
    return int(found.pop())


def _scales(scale: Array, rows: int) -> NDArray[np.float32]:
    wide = scale.astype(np.float32).reshape(len(scale) if scale.ndim else 1, -1)
    return np.ascontiguousarray(np.broadcast_to(wide, (rows, wide.shape[1])))


def _read_plain(tensors: Tensors, sources: tuple[str, ...]) -> tuple[Array, ...]:
    q, scale = (tensors[name].load() for name in sources[:2])
    return q, _scales(scale, len(q))


def _read_packed(tensors: Tensors, sources: tuple[str, ...], bits: int, zeros: str | None) -> tuple[Array, ...]:
    packed, stored = (tensors[name].load() for name in sources[:2])
    q, scale = signed(fields(packed, bits, 1), bits), _scales(stored, len(packed))
    if zeros is None:
        return q, scale
    zero = fields(tensors[zeros].load(), bits, 0)[: len(q)] - (1 << (bits - 1))
    return q, scale, -zero.astype(np.float32) * scale


FORMAT = Format("compressed-tensors", modules)
