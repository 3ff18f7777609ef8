"""What stands for the parameters of a model without weights: made at load, so that speed can be measured.

Activations have to stay numbers of the usual size, or kernels would be timed on infinities: matrices are spread as at
initialization, gains are 1, and the scales of quantized matrices give products of that spread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import mlir.ir as mlir
import numpy as np

from warploom.ir.ops.mxfp4 import NUMBERS, quantize_mxfp4
from warploom.ir.ops.parameters import checkpoint
from warploom.ir.ops.scaled_cache import is_scales
from warploom.ir.rewrite import is_op
from warploom.ir.types import type_of
from warploom.runtime.manifest import RandomParam

# Largest magnitude of a quantized number.
_LARGEST = {"i4": 7.0, "i8": 127.0, "f8e4m3": 448.0}
_UNIFORM_MAX = 3**0.5  # of a uniform distribution with standard deviation 1


def random_params(
    values: Mapping[str, mlir.Value], standard_deviation: float, first_seed: int = 0
) -> dict[str, RandomParam]:
    """Return a random parameter for each of the values that `@prepare` exports, by name.

    Args:
        standard_deviation: of weight matrices, quantized or not.
    """
    largest = _UNIFORM_MAX * standard_deviation
    return {name: _random(value, largest, seed) for seed, (name, value) in enumerate(values.items(), first_seed)}


def _random(value: mlir.Value, largest: float, seed: int) -> RandomParam:
    type_ = type_of(value)
    shape, dtype = list(type_.resolve({})), type_.dtype.value
    made, index = _origin(value)
    if index == 1 and is_op(made, quantize_mxfp4):
        exponent = round(math.log2(largest / _UNIFORM_MAX / np.sqrt(np.mean(np.square(NUMBERS)))))
        return RandomParam(shape, dtype, 127.0 + exponent, 0.0, seed)
    if index == 1:  # scales of what was quantized
        return RandomParam(shape, dtype, largest / _LARGEST[type_of(made.results[0]).dtype], 0.0, seed)
    if index > 1:  # offsets
        return RandomParam(shape, dtype, 0.0, 0.0, seed)
    if dtype in _LARGEST:
        return RandomParam(shape, dtype, 0.0, _LARGEST[dtype], seed)
    if len(shape) == 1 or (is_op(made, checkpoint) and is_scales(made.attributes["name"].value)):
        return RandomParam(shape, dtype, 1.0, 0.0, seed)
    return RandomParam(shape, dtype, 0.0, largest, seed)


def _origin(value: mlir.Value) -> tuple[mlir.Operation, int]:
    """The op that made what `value` is a layout of, and which of its results that is: 0 but for a quantization."""
    made = value.owner.operation
    while made.operands and len(made.results) == 1:
        value = made.operands[0]
        made = value.owner.operation
    return made, list(made.results).index(value)
