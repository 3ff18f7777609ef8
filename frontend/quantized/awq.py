"""AWQ checkpoints of the `gemm` kind, as AutoAWQ writes them (Lin et al. 2023; casper-hansen/AutoAWQ).

qweight i32 [k, n/8] and qzeros i32 [groups, n/8] hold eight numbers of four bits a word, columns in the order
0 2 4 6 1 3 5 7; scales f16 [groups, n]. A weight is (q - zero) * scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from warploom.frontend.quantized.format import Format, Parts, Tensors, fields, refuse, signed
from warploom.frontend.tensors import Array, require

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def modules(config: Mapping[str, Any], tensors: Tensors) -> Iterator[tuple[str, Parts, tuple[str, ...]]]:
    """Every module that has a qweight."""
    variant = {"bits": config.get("bits"), "version": str(config.get("version", "gemm")).lower()}
    if variant != {"bits": 4, "version": "gemm"}:
        raise refuse("this variant of AWQ is not supported", "4 bits, version gemm", variant)
    for name, packed in tensors.items():
        if name.endswith(".qweight"):
            path = name.removesuffix(".qweight")
            sources = tuple(f"{path}.{part}" for part in ("qweight", "qzeros", "scales"))
            k, n, groups = packed.shape[0], packed.shape[1] * 8, tensors[sources[2]].shape[0]
            require(tensors, sources[1], (groups, n // 8))
            require(tensors, sources[2], (groups, n))
            side = ((n, groups), "f32")
            yield path, Parts((((n, k), "i4"), side, side), partial(_read, tensors, sources)), sources


def _read(tensors: Tensors, sources: tuple[str, ...]) -> tuple[Array, ...]:
    qweight, qzeros, scales = (tensors[name].load() for name in sources)
    q = signed(fields(qweight, 4, 1, ORDER), 4).T
    zeros = fields(qzeros, 4, 1, ORDER).T - 8
    scale = scales.T.astype(np.float32)
    return np.ascontiguousarray(q), scale, -zeros.astype(np.float32) * scale


FORMAT = Format("awq", modules)
