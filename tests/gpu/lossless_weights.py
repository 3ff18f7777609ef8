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
from warploom.ir.ops.mxfp4 import mxfp4_values, quantize_mxfp4
from warploom.ir.ops.quantize import LARGEST, quantize
from warploom.ir.types import DType

EXTREME = {name: largest for name, largest in LARGEST.items() if name is not DType.I4} | {DType.I4: 8.0}
AFTER_ATTENTION = r"lm_head|\.layers\.1\.(self_attn\.o_proj|mlp)"  # of models of two layers: `fp8` keeps int8 there
ROUNDINGS: dict[str, Callable[[str, np.ndarray], np.ndarray]] = {  # of a matrix f32 [..., columns] of this name
    "bf16": lambda name, weight: weight,
    "int8": lambda name, weight: rounded(weight, DType.I8),
    "int4": lambda name, weight: rounded(weight, DType.I4, 32),
    "fp8": lambda name, weight: rounded(weight, DType.I8 if re.search(AFTER_ATTENTION, name) else DType.F8),
    "mxfp4": lambda name, weight: rounded_columns(weight) if ".experts." in name else weight,
}


@torch.no_grad()
def make_lossless(model: PreTrainedModel, scheme: str) -> None:
    """Change the matrices of a model, in place."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and not name.endswith("bias"):
            parameter.copy_(torch.from_numpy(ROUNDINGS[scheme](name, parameter.float().numpy())))


def rounded_columns(weight: np.ndarray) -> np.ndarray:
    """MXFP4 of gpt-oss' experts [count, columns, rows], which it stores the other way round; its scales are powers."""
    count, columns, rows = weight.shape
    turned = weight.swapaxes(1, 2).reshape(count * rows, columns)
    found: np.ndarray = mxfp4_values(*quantize_mxfp4.evaluate(turned))
    return found.reshape(count, rows, columns).swapaxes(1, 2)


def rounded(weight: np.ndarray, dtype: DType, group: int = 0) -> np.ndarray:
    """f32 [..., columns], near to `weight`; in groups of so many columns (0: all)."""
    grouped = weight.reshape(*weight.shape[:-1], -1, group or weight.shape[-1]).copy()
    at = np.abs(grouped).argmax(-1)[..., None]
    extreme = np.take_along_axis(grouped, at, -1)
    power = np.exp2(np.ceil(np.log2(np.maximum(np.abs(extreme), 1e-30) / EXTREME[dtype])))  # zeros stay zeros
    np.put_along_axis(grouped, at, np.sign(extreme) * EXTREME[dtype] * power, -1)
    stored = quantize.evaluate(grouped.reshape(weight.shape), dtype=dtype.value, group=group, scale_dtype="f32")
    found: np.ndarray = dequantize.evaluate(*stored)
    return found


@contextmanager
def rounded_activations(model: nn.Module, scheme: str) -> Iterator[None]:
    """Inside, what meets weights of FP8 is rounded to FP8, with a scale per token."""

    def round_input(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[torch.Tensor]:
        (x,) = arguments
        scale = (x.float().abs().amax(-1, keepdim=True) / LARGEST[DType.F8]).clamp(min=1e-30)  # zeros stay zeros
        return (((x.float() / scale).to(torch.float8_e4m3fn).float() * scale).to(x.dtype),)

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if scheme == "fp8" and isinstance(module, nn.Linear) and not re.search(AFTER_ATTENTION, name):
                stack.callback(module.register_forward_pre_hook(round_input).remove)
        yield
