"""What a format is, and reading the weights of a quantized checkpoint.

Whatever the format, a weight becomes parts that `ir/ops/dequantize.py` describes: numbers q [n, k] of i4, i8 or f8,
scales [n, groups] and, where the format is asymmetric, offsets [n, groups]: q * scale + offset.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend import quantized
from warploom.frontend.tensors import Array, LazyTensor

PARTS = ("q", "scale", "offset")
INPUT_SCALE = "input_scale"
Tensors = Mapping[str, LazyTensor]


@dataclass(frozen=True)
class Parts:
    """A quantized weight: `read` gives q, scale and maybe offset of these shapes and dtypes; or floats alone.

    `whole` is what they stand for in the unquantized model, where that is not the matrix `weight` of a module. `order`
    is that of columns, see LazyTensor; modules of equal orders have one tensor, so that their inputs are one.
    """

    types: tuple[tuple[tuple[int, ...], str], ...]
    read: Callable[[], tuple[Array, ...]]
    whole: LazyTensor | None = None
    order: LazyTensor | None = None


@dataclass(frozen=True)
class Format:
    """One way in which others quantize.

    Attributes:
        method: its `quant_method` in config.json.
        modules: (path of a module, its parts, the tensors that they are made of) for every quantized linear; may
            raise UnsupportedModelError for a variant that is not read.
    """

    method: str
    modules: Callable[[Mapping[str, Any], Tensors], Iterator[tuple[str, Parts, tuple[str, ...]]]]


@cache
def formats() -> dict[str, Format]:
    """All formats by method."""
    found = (import_module(f"{quantized.__name__}.{i.name}") for i in pkgutil.iter_modules(quantized.__path__))
    return {module.FORMAT.method: module.FORMAT for module in found if hasattr(module, "FORMAT")}


def format_of(config: Mapping[str, Any], model_id: str) -> Format:
    """The format of a `quantization_config`; UnsupportedModelError if there is none for it."""
    method = str(config.get("quant_method") if isinstance(config, Mapping) else config)
    if method not in formats():
        raise UnsupportedModelError(
            f"the weights of {model_id} are quantized in a way that is not supported",
            expected=f"one of {', '.join(sorted(formats()))}; f32, f16 or bf16; or a GGUF file",
            found=method,
            fix="use the original model; compile can quantize it",
        )
    return formats()[method]


def read_quantized(config: Mapping[str, Any], tensors: Tensors, model_id: str) -> dict[str, LazyTensor]:
    """The tensors of a checkpoint under the names of the unquantized model; quantized weights have parts.

    Args:
        config: the `quantization_config` of config.json.
        tensors: as they are stored.
        model_id: for messages.

    Raises:
        UnsupportedModelError: the method, or its variant, is not supported.
        CheckpointError: a part is missing, or has another shape than the others ask for; also when it is loaded.
    """
    result: dict[str, LazyTensor] = {}
    taken: set[str] = set()
    with _fitting(f"the quantized weights of {model_id}"):
        for path, parts, sources in format_of(config, model_id).modules(config, tensors):
            name = f"{path}.weight" if parts.whole is None else parts.whole.name
            result |= quantized_weight(name, parts, tensors[sources[0]].source)
            result |= static_scale(f"{path}.{INPUT_SCALE}", parts, tensors)
            taken.update(sources)
    return {name: tensor for name, tensor in tensors.items() if name not in taken} | result


@contextmanager
def _fitting(what: str) -> Iterator[None]:
    """Name what is read when its parts do not fit together: dictionaries and numpy say so in ways of their own."""
    try:
        yield
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{what}: their parts do not belong together",
            expected="numbers, scales, offsets and a quantization_config that fit each other",
            found=f"no {error.args[0]}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}",
            fix="download the model again, or use the original model; compile can quantize it",
        ) from error


def _read_fitting(name: str, parts: Parts) -> tuple[Array, ...]:
    """The parts, with the shapes that they are said to have: numpy would stretch others."""
    with _fitting(f"the numbers and scales of {name}"):
        found = parts.read()
        for (wanted, _), array in zip(parts.types, found, strict=True):
            if array.shape != wanted or not array.size:
                raise ValueError(f"{list(array.shape)} instead of {list(wanted)}")
        if len(found) > 1 and found[0].shape[-1] % found[1].shape[-1]:
            raise ValueError(f"{found[0].shape[-1]} columns in {found[1].shape[-1]} groups")
    return found


def static_scale(name: str, parts: Parts, tensors: Tensors) -> dict[str, LazyTensor]:
    """The scale on which the inputs of a linear of FP8 are to be rounded, f32 [1], if the checkpoint has one."""
    if name not in tensors or parts.types[0][1] != "f8e4m3":
        return {}
    stored = tensors[name]
    return {name: LazyTensor(name, (1,), "f32", stored.source, lambda: stored.load().astype(np.float32).reshape(1))}


def quantized_weight(name: str, parts: Parts, source: str) -> dict[str, LazyTensor]:
    """The lazy tensor of a weight, those of its parts and of their order, by name."""
    parts = replace(parts, read=partial(_read_fitting, name, parts))
    if len(parts.types) == 1:
        return {name: LazyTensor(name, *parts.types[0], source, _part(parts, 0))}
    found = tuple(
        LazyTensor(f"{name}.{PARTS[i]}", shape, dtype, source, _part(parts, i))
        for i, (shape, dtype) in enumerate(parts.types)
    )
    whole = parts.whole or LazyTensor(name, parts.types[0][0], "f32", source, lambda: _whole(parts))
    others = found if parts.order is None else (*found, parts.order)
    return {tensor.name: tensor for tensor in (replace(whole, parts=found, order=parts.order), *others)}


def _whole(parts: Parts) -> NDArray[np.float32]:
    found = values(*parts.read())
    if parts.order is None:
        return found
    result = np.empty_like(found)
    result[:, parts.order.load()] = found
    return result


def _part(parts: Parts, index: int) -> Callable[[], Array]:
    return lambda: np.ascontiguousarray(parts.read()[index])


def values(q: Array, scale: Array, offset: Array | None = None) -> NDArray[np.float32]:
    """What parts stand for, f32 [n, k]."""
    wide = scale.astype(np.float32)[..., None]
    result = q.astype(np.float32).reshape(*scale.shape, -1) * wide
    if offset is not None:
        result = result + offset.astype(np.float32)[..., None]
    return result.reshape(q.shape)


def fields(words: Array, bits: int, axis: int, order: tuple[int, ...] | None = None) -> NDArray[np.int16]:
    """Unsigned numbers of `bits` bits out of 32-bit words, the low ones first (or in `order`), along an axis."""
    count = 32 // bits
    places = np.arange(count, dtype=np.uint32) if order is None else np.argsort(order).astype(np.uint32)
    wide = np.expand_dims(words.view(np.uint32), axis + 1)
    shape = [1] * wide.ndim
    shape[axis + 1] = count
    found = (wide >> (places * np.uint32(bits)).reshape(shape)) & np.uint32((1 << bits) - 1)
    merged = list(words.shape)
    merged[axis] *= count
    return found.reshape(merged).astype(np.int16)


def signed(numbers: NDArray[np.int16], bits: int) -> Array:
    """Unsigned numbers less half of their range, as i4 or i8."""
    return (numbers - (1 << (bits - 1))).astype(ml_dtypes.int4 if bits == 4 else np.int8)


def side_dtype(scales: LazyTensor) -> str:
    """In which scales without offsets are kept: as they are, if kernels read that, else f32."""
    return "f16" if scales.dtype == "f16" else "f32"


def refuse(what: str, expected: str, found: object) -> UnsupportedModelError:
    """The error for a variant of a format that is not read."""
    return UnsupportedModelError(
        what, expected=expected, found=str(found), fix="use the original model; compile can quantize it"
    )
