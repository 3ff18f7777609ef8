"""Checkpoints of compressed-tensors (vllm-project/compressed-tensors), as llm-compressor writes them.

- `float-quantized`: weight f8 [n, k], weight_scale [n, 1] or [1];
- `int-quantized`, `naive-quantized`: weight i8 (or f8), the same scales;
- `pack-quantized`: weight_packed i32 [n, k * bits/32], each number + 2^(bits - 1), the low ones first; weight_scale
  [n, groups]; weight_zero_point i32 [n * bits/32, groups], packed along n, where the scheme is asymmetric.

A weight is (q - zero) * scale. The static scale of the input of an FP8 linear is input_scale [1]. With `actorder` group
weight_g_idx i32 [k] names the group of each column, see `act_order.py`; where it holds -1 columns are in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from warploom.frontend.quantized.act_order import Orders, are_even
from warploom.frontend.quantized.format import Format, Parts, Tensors, fields, refuse, side_dtype, signed
from warploom.frontend.tensors import NUMPY_DTYPES, Array, LazyTensor

KINDS = ("float-quantized", "int-quantized", "naive-quantized", "pack-quantized")
GROUPS = "weight_g_idx"
OTHERS = ("weight_shape", "weight_zero_point", GROUPS, "input_scale")


def modules(config: Mapping[str, Any], tensors: Tensors) -> Iterator[tuple[str, Parts, tuple[str, ...]]]:
    """Every module that has a weight_scale."""
    kind = config.get("format")
    if kind not in KINDS:
        raise refuse("this format of compressed-tensors is not supported", ", ".join(KINDS), kind)
    orders = Orders()
    for name in tensors:
        if name.endswith(".weight_scale"):
            path = name.removesuffix(".weight_scale")
            weight = f"{path}.weight_packed" if f"{path}.weight_packed" in tensors else f"{path}.weight"
            others = tuple(f"{path}.{other}" for other in OTHERS if f"{path}.{other}" in tensors)
            sources = (weight, name, *others)
            parts = _packed if weight.endswith("_packed") else _plain
            yield path, parts(config, tensors, path, orders), sources


def _plain(config: Mapping[str, Any], tensors: Tensors, path: str, orders: Orders) -> Parts:
    weight, scale = tensors[f"{path}.weight"], tensors[f"{path}.weight_scale"]
    if f"{path}.{GROUPS}" in tensors:
        raise refuse(f"{path}: groups of columns that are no neighbours need packed weights", f"no {GROUPS}", path)
    groups = scale.shape[1] if len(scale.shape) > 1 else 1
    types = ((weight.shape, weight.dtype), ((weight.shape[0], groups), "f32"))
    return Parts(types, lambda: (weight.load(), _scales(scale.load(), weight.shape[0], "f32")))


def _packed(config: Mapping[str, Any], tensors: Tensors, path: str, orders: Orders) -> Parts:
    weight, scale, bits = tensors[f"{path}.weight_packed"], tensors[f"{path}.weight_scale"], _bits(config)
    n, k, groups = weight.shape[0], weight.shape[1] * (32 // bits), scale.shape[1] if len(scale.shape) > 1 else 1
    zeros, order = tensors.get(f"{path}.weight_zero_point"), _order(tensors, path, groups, orders)
    side = ((n, groups), side_dtype(scale) if zeros is None else "f32")
    read = partial(_read_packed, weight, scale, zeros, order, bits, side[1])
    return Parts((((n, k), f"i{bits}"), *[side] * (1 if zeros is None else 2)), read, order=order)


def _order(tensors: Tensors, path: str, groups: int, orders: Orders) -> LazyTensor | None:
    indices = tensors.get(f"{path}.{GROUPS}")
    if indices is None or -1 in indices.load():
        return None
    if not are_even(indices.load(), groups):
        raise refuse(f"{path}: its groups of columns differ in size", f"{groups} of one size", path)
    return orders.find(path, indices)


def _bits(config: Mapping[str, Any]) -> int:
    found = {group["weights"]["num_bits"] for group in config.get("config_groups", {}).values() if group.get("weights")}
    if len(found) != 1 or not found <= {4, 8}:
        raise refuse("packed weights must have one width", "4 or 8 bits", sorted(found))
    return int(found.pop())


def _scales(scale: Array, rows: int, dtype: str) -> Array:
    if scale.ndim > 2:
        raise ValueError(f"scales {list(scale.shape)}")
    wide = scale.astype(NUMPY_DTYPES[dtype]).reshape(len(scale) if scale.ndim else 1, -1)
    return np.ascontiguousarray(np.broadcast_to(wide, (rows, wide.shape[1])))


def _read_packed(
    weight: LazyTensor, scale: LazyTensor, zeros: LazyTensor | None, order: LazyTensor | None, bits: int, side: str
) -> tuple[Array, ...]:
    packed = weight.load()
    q, scales = signed(fields(packed, bits, 1), bits), _scales(scale.load(), len(packed), side)
    q = q if order is None else q[:, order.load()]
    if zeros is None:
        return q, scales
    zero = fields(zeros.load(), bits, 0)[: len(q)] - (1 << (bits - 1))
    return q, scales, -zero.astype(np.float32) * scales.astype(np.float32)


FORMAT = Format("compressed-tensors", modules)
