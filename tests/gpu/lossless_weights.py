"""Weights that a scheme of quantization stores without loss, so that a model of them is its own reference.

The largest number of each group becomes the format's largest times a power of two: then that power is the scale that
the scheme finds, and every number is a bf16, too. What the scheme leaves in bf16 is thus stored exactly as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from warploom.ir.ops.dequantize import dequantize
from warploom.ir.ops.quantize import LARGEST, quantize
from warploom.ir.types import DType

EXTREME = {name: largest for name, largest in LARGEST.items() if name is not DType.I4} | {DType.I4: 8.0}
AFTER_ATTENTION = r"lm_head|\.layers\.1\.(self_attn\.o_proj|mlp)"  # of models of two layers: `fp8` keeps int8 there
Format = Callable[[str], tuple[DType, int]]  # name of a parameter -> dtype, columns of a group (0: all)
FORMATS: dict[str, Format] = {
    "int8": lambda name: (DType.I8, 0),
    "int4": lambda name: (DType.I4, 32),
    "fp8": lambda name: (DType.I8 if re.search(AFTER_ATTENTION, name) else DType.F8, 0),
}


@torch.no_grad()
def make_lossless(model: PreTrainedModel, scheme: str) -> None:
    """Change the matrices of a model, in place."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.from_numpy(lossless(parameter.float().numpy(), *FORMATS[scheme](name))))


def lossless(weight: np.ndarray, dtype: DType, group: int) -> np.ndarray:
    """f32 [..., columns], near to `weight`."""
    grouped = weight.reshape(*weight.shape[:-1], -1, group or weight.shape[-1]).copy()
    at = np.abs(grouped).argmax(-1)[..., None]
    extreme = np.take_along_axis(grouped, at, -1)
    power = np.exp2(np.ceil(np.log2(np.maximum(np.abs(extreme), 1e-30) / EXTREME[dtype])))  # zeros stay zeros
    np.put_along_axis(grouped, at, np.sign(extreme) * EXTREME[dtype] * power, -1)
    stored = quantize.evaluate(grouped.reshape(weight.shape), dtype=dtype.value, group=group, scale_dtype="f32")
    found: np.ndarray = dequantize.evaluate(*stored)
    return found


@contextmanager
def rounded_activations(model: PreTrainedModel, scheme: str) -> Iterator[None]:
    """Inside, what meets weights of FP8 is rounded to FP8, with a scale per token."""

    def round_input(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[torch.Tensor]:
        (x,) = arguments
        scale = x.float().abs().amax(-1, keepdim=True) / LARGEST[DType.F8]
        return (((x.float() / scale).to(torch.float8_e4m3fn).float() * scale).to(x.dtype),)

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and FORMATS[scheme](name)[0] is DType.F8:
                stack.callback(module.register_forward_pre_hook(round_input).remove)
        yield
