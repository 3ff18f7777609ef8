"""The values of a stored tensor."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from warploom.frontend.gguf_file import GGUFTensor
from warploom.frontend.tensors import NUMPY_DTYPES, Array

# Kinds that are kept as they are stored; every other kind is dequantized.
PLAIN_KINDS: Mapping[GGMLQuantizationType, str] = {
    GGMLQuantizationType.F32: "f32",
    GGMLQuantizationType.F16: "f16",
    GGMLQuantizationType.BF16: "bf16",
}
ROPE_FACTORS, SHORT_FACTORS, LONG_FACTORS = (
    f"rope_{name}.weight" for name in ("freqs", "factors_short", "factors_long")
)  # go into the config's rope_scaling


def dtype_of(kind: GGMLQuantizationType) -> str:
    """Of what `read_values` gives; all values of MXFP4 are numbers of bf16."""
    return "bf16" if kind is GGMLQuantizationType.MXFP4 else PLAIN_KINDS.get(kind, "f32")


def read_values(tensor: GGUFTensor) -> Array:
    """The values of a stored tensor in its own row order: plain kinds as a view, quantized kinds as new floats."""
    if tensor.kind in PLAIN_KINDS:
        return np.frombuffer(tensor.data, NUMPY_DTYPES[PLAIN_KINDS[tensor.kind]]).reshape(tensor.shape)
    block_rows: NDArray[np.uint8] = tensor.data.reshape(*tensor.shape[:-1], -1)
    values: Array = dequantize(block_rows, tensor.kind).reshape(tensor.shape)
    return values.astype(ml_dtypes.bfloat16) if tensor.kind is GGMLQuantizationType.MXFP4 else values
