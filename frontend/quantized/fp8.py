"""FP8 (E4M3) checkpoints with `quant_method` fp8: scales of a whole matrix, or of blocks as DeepSeek-V3 has them.

weight f8 [n, k]; weight_scale_inv f32 [n/b, k/b] for `weight_block_size` [b, b], or weight_scale [1]. A weight is
q * scale, in spite of the name. With `activation_scheme` static, input_scale [1] is that of the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from warploom.frontend.quantized.format import Format, Parts, Tensors, refuse
from warploom.frontend.tensors import Array

SCALES = (".weight_scale_inv", ".weight_scale")


def modules(config: Mapping[str, Any], tensors: Tensors) -> Iterator[tuple[str, Parts, tuple[str, ...]]]:
    """Every module that has a scale."""
    rows, columns = _block(config.get("weight_block_size"))
    for name in tensors:
        suffix = next((suffix for suffix in SCALES if name.endswith(suffix)), None)
        if suffix is None:
            continue
        path = name.removesuffix(suffix)
        sources = (f"{path}.weight", name, *([f"{path}.input_scale"] if f"{path}.input_scale" in tensors else []))
        n, k = tensors[sources[0]].shape
        if columns and k % columns:
            raise refuse(f"{path}: its columns do not divide into blocks", f"a multiple of {columns}", k)
        groups = k // columns if columns else 1
        yield path, Parts((((n, k), "f8e4m3"), ((n, groups), "f32")), partial(_read, tensors, sources, rows)), sources


def _block(stated: Any) -> tuple[int, int]:
    """Rows and columns of a block; zeros where there are none."""
    if stated is None:
        return 0, 0
    if isinstance(stated, list) and len(stated) == 2 and all(isinstance(one, int) and one > 0 for one in stated):
        return stated[0], stated[1]
    raise refuse(
        "weight_block_size of quantization_config has a value that is not supported", "[rows, columns]", stated
    )


def _read(tensors: Tensors, sources: tuple[str, ...], rows: int) -> tuple[Array, ...]:
    q, scale = (tensors[name].load() for name in sources[:2])
    wide = scale.astype(np.float32).reshape(scale.shape if scale.ndim == 2 else (-1, 1))
    return q, np.ascontiguousarray(np.repeat(wide, rows or -(-len(q) // len(wide)), 0)[: len(q)])


FORMAT = Format("fp8", modules)
