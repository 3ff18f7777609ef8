"""Put the keys and values of FP8 caches on static scales: a checkpoint's own, or measured ones.

    kv' = kv_write(kv, k, v, slots)      kv' = scaled_kv_write(kv, k, v, slots, scales)
    y = attention(q, kv', ...)           y = scaled_attention(q, kv', scales, ...)

`scales` f32 [2, kv_heads], one parameter a layer. Caches of other numbers need none: bf16 has the range of f32, and
rows of i8 have exponents of their own.
"""

from __future__ import annotations

from collections.abc import Container

import mlir.ir as mlir

from warploom.ir.attributes import AttrValue
from warploom.ir.function import functions
from warploom.ir.ops.attention import attention
from warploom.ir.ops.kv_write import kv_write
from warploom.ir.ops.parameters import checkpoint, export, param
from warploom.ir.ops.scaled_cache import scaled_attention, scaled_kv_write, scales_name
from warploom.ir.rewrite import before, entries, is_op, replace
from warploom.ir.types import DType, type_of
from warploom.ir.verify import PREPARE


def scale_caches(module: mlir.Module, scales: Container[str]) -> None:
    """Rewrite the writes and the attentions of every layer that has scales, known by their name."""
    prepare = functions(module)[PREPARE]
    exported: set[str] = set()
    for function in entries(module):
        known: dict[str, mlir.Value] = {}
        for operation in function.ops:
            if not is_op(operation, kv_write, attention):
                continue
            kv = operation.operands[0 if is_op(operation, kv_write) else 1]
            name = scales_name(operation.attributes["layer"].value)
            if type_of(kv).dtype is not DType.F8 or name not in scales:
                continue
            facts: dict[str, AttrValue] = {"name": name, "shape": (2, type_of(kv).shape[3]), "dtype": "f32"}
            if name not in exported:
                exported.add(name)
                with before(prepare.terminator):
                    export(checkpoint(**facts), name=name)
            with before(operation):
                if name not in known:
                    known[name] = param(**facts)
                _scale(operation, known[name])


def _scale(operation: mlir.Operation, scales: mlir.Value) -> None:
    if is_op(operation, kv_write):
        scaled = scaled_kv_write(*operation.operands, scales, **kv_write.attrs_of(operation))
    else:
        q, kv, *others = operation.operands
        scaled = scaled_attention(q, kv, scales, *others, **attention.attrs_of(operation))
    replace(operation, [scaled])
