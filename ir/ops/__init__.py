"""All ops of the dialect. Importing this package fills the registry `warploom.ir.op.OPS`.

To add an op: write its class in the file of its family, and the instance below it. A new file is imported here.
"""

from warploom.ir.ops import (
    activation,
    attention,
    elementwise,
    linear,
    norm,
    packing,
    parameters,
    quantization,
    random,
    reduce,
    rope,
    sample,
    shape,
)

__all__ = [
    "activation",
    "attention",
    "elementwise",
    "linear",
    "norm",
    "packing",
    "parameters",
    "quantization",
    "random",
    "reduce",
    "rope",
    "sample",
    "shape",
]
