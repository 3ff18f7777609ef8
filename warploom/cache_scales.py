"""Scales of the keys and values of an FP8 cache: the checkpoint's own, else measured on a text.

FP8 checkpoints may hold them beside the weights of each layer, for all heads or for each:

- `self_attn.k_scale`, `self_attn.v_scale`: compressed-tensors, with a `kv_cache_scheme` of 8-bit floats;
- `self_attn.k_proj.k_scale`, `self_attn.v_proj.v_scale`: NVIDIA's ModelOpt;
- `self_attn.k_proj.output_scale`, `self_attn.v_proj.output_scale`, `self_attn.kv_scale`: AutoFP8.

Without them the interpreter reads a text once. Heads whose largest number is between 1 and a quarter of what FP8 holds
stay as they are: a text is only a sample, which asks for room, and floats lose nothing by it. Others are put on a power
of two, with which it lies between an eighth and a quarter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product

import mlir.ir as mlir
import numpy as np
from tokenizers import Tokenizer

from warploom.codegen.backend import Progress
from warploom.errors import CheckpointError, CompileError
from warploom.frontend.checkpoint import Checkpoint
from warploom.frontend.models.inputs import CacheSpec
from warploom.frontend.models.registry import Geometry
from warploom.frontend.stacked import load_tensor
from warploom.frontend.tensors import LazyTensor
from warploom.frontend.trace import Limits, kv_type, trace
from warploom.ir.function import functions
from warploom.ir.interpreter import evaluate, evaluate_exports
from warploom.ir.ops.kv_write import F8_MAX, kv_write
from warploom.ir.ops.parameters import export
from warploom.ir.ops.scaled_cache import scales_name
from warploom.ir.rewrite import is_op
from warploom.ir.types import DType
from warploom.ir.verify import PREPARE
from warploom.library_text import library_text
from warploom.passes.cse import cse
from warploom.passes.simplify import simplify

WINDOW, WINDOWS = 256, 2  # tokens of a sequence, and how many: read in one step
PAGE_SIZE = 16
ROOM = 4  # times what was seen stays below the largest number
_OWN = re.compile(r"\.(\d+)\.(?:\w+\.)*(?:(k|v|kv)_scale|(k|v)_proj\.output_scale)$")


def cache_scales(
    checkpoint: Checkpoint, geometry: Geometry, text: str | None, progress: Progress
) -> dict[str, LazyTensor]:
    """Scales f32 [2, kv_heads] of every layer by `scales_name`; in the current MLIR context. Dummy weights have ones.

    Args:
        checkpoint: of a model whose cache has keys and values.
        geometry: of the model.
        text: what is read where the checkpoint has no scales; None: documentation of Python's standard library.
        progress: told when the text is read.

    Raises:
        CheckpointError: the checkpoint's scales are incomplete, or are no scales.
        CompileError: the text has too few tokens, or keys and values are not finite.
    """
    if checkpoint.tensors:
        found = own_scales(checkpoint, geometry)
        if found is None:
            progress("measuring keys and values", 0.0)
            found = _powers_of_two(_measured_peaks(checkpoint, geometry, text))
    else:
        found = np.ones((geometry.num_layers, 2, geometry.num_kv_heads), np.float32)
    return {scales_name(number): _tensor(scales_name(number), layer) for number, layer in enumerate(found)}


def _tensor(name: str, scales: np.ndarray) -> LazyTensor:
    return LazyTensor(name, scales.shape, "f32", "scales of the KV cache", lambda: scales)


def own_scales(checkpoint: Checkpoint, geometry: Geometry) -> np.ndarray | None:
    """Those that a checkpoint has for FP8 caches, f32 [layers, 2, kv_heads], or None; see `cache_scales` for errors."""
    scheme = checkpoint.config.get("quantization_config", {}).get("kv_cache_scheme") or {}
    if scheme.get("type", "float") != "float" or scheme.get("num_bits", 8) != 8:
        return None  # scales of other numbers
    found: dict[tuple[int, int], LazyTensor] = {}
    for name, tensor in checkpoint.tensors.items():
        if match := _OWN.search(name):
            found |= {(int(match[1]), "kv".index(which)): tensor for which in match[2] or match[3]}
    if not found:
        return None
    layers = range(geometry.num_layers)
    wanted = list(product(layers, (0, 1)))
    if missing := [f"{'kv'[which]} of layer {layer}" for layer, which in wanted if (layer, which) not in found]:
        raise CheckpointError(
            "scales of the KV cache are missing",
            expected="one of the keys and one of the values of every layer, or none at all",
            found=f"none for {', '.join(missing[:4])}",
            fix="complete the checkpoint, or remove its k_scale and v_scale: they are then measured",
        )
    heads = geometry.num_kv_heads
    return np.stack([np.stack([_checked(found[layer, which], heads) for which in (0, 1)]) for layer in layers])


def _checked(tensor: LazyTensor, heads: int) -> np.ndarray:
    """A scale of all heads, or one of each, as f32 [heads]."""
    values = tensor.load().astype(np.float32).reshape(-1)
    if values.size not in (1, heads) or not (np.isfinite(values) & (values > 0)).all():
        raise CheckpointError(
            f"{tensor.name} in {tensor.source} is no scale of a KV cache",
            expected=f"a positive number, or {heads}, one of each head",
            found=f"{values[:4].tolist()}{'...' if values.size > 4 else ''} of shape {list(tensor.shape)}",
            fix="correct the checkpoint, or remove its k_scale and v_scale: they are then measured",
        )
    return np.broadcast_to(values, (heads,))


def _powers_of_two(peaks: np.ndarray) -> np.ndarray:
    """Scales that leave room above the largest numbers; 1 where there is room, and where there are only zeros."""
    if not np.isfinite(peaks).all():
        layer = int(np.argwhere(~np.isfinite(peaks))[0, 0])
        raise CompileError(
            f"keys or values of layer {layer} are not finite",
            expected="a model that reads the calibration text without overflow",
            fix="check the checkpoint, or compile without kv_cache='fp8'",
        )
    fits = ((peaks >= 1) & (peaks <= F8_MAX / ROOM)) | (peaks == 0)
    exponents = np.ceil(np.log2(np.where(fits, F8_MAX / ROOM, peaks) * ROOM / F8_MAX))
    return np.exp2(exponents).astype(np.float32)


def _measured_peaks(checkpoint: Checkpoint, geometry: Geometry, text: str | None) -> np.ndarray:
    """The largest magnitude of the keys and values of each head, [layers, 2, kv_heads]."""
    window = min(WINDOW, geometry.max_context)
    tokens = _windows(checkpoint, text, window)
    cache, limits = CacheSpec(PAGE_SIZE, DType.F32, "token_major"), Limits(tokens.size, len(tokens), window)
    module = trace(checkpoint.config, checkpoint.require, cache, limits)
    simplify(module)
    cse(module)
    watched = {
        operation.operands[1 + which]: (operation.attributes["layer"].value, which)
        for operation in functions(module)["step"].ops
        if is_op(operation, kv_write)
        for which in (0, 1)
    }
    peaks = np.zeros((geometry.num_layers, 2, geometry.num_kv_heads))

    def look(value: mlir.Value, array: np.ndarray) -> None:
        if value in watched:
            peaks[watched[value]] = np.abs(array).max((0, 2))

    evaluate(module, "step", _step(tokens, geometry, cache), _Parameters(module, checkpoint), look=look)
    return peaks


def _windows(checkpoint: Checkpoint, text: str | None, window: int) -> np.ndarray:
    """Token ids of a text, [windows, tokens]."""
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer.tokenizer_json)
    ids = tokenizer.encode(library_text("calibration") if text is None else text, add_special_tokens=False).ids
    count = min(WINDOWS, len(ids) // window)
    if not count:
        raise CompileError(
            "the calibration text is too short",
            expected=f"at least {window} tokens, better {window * WINDOWS}",
            found=f"{len(ids)} tokens",
            fix="give a longer text, or none: the documentation of Python's standard library is read then",
        )
    return np.array(ids[: count * window], np.int32).reshape(count, window)


def _step(tokens: np.ndarray, geometry: Geometry, cache: CacheSpec) -> Mapping[str, np.ndarray]:
    """Sequences from their beginning."""
    count, window = tokens.shape
    pages = -(-window // PAGE_SIZE)
    table = np.arange(count * pages).reshape(count, pages)
    positions = np.arange(window)
    ints = {
        "token_ids": tokens.reshape(-1),
        "positions": np.tile(positions, count),
        "slots": (table[:, positions // PAGE_SIZE] * PAGE_SIZE + positions % PAGE_SIZE).reshape(-1),
        "page_table": table,
        "query_start": np.arange(count + 1) * window,
        "context_lens": np.full(count, window),
        "logit_rows": np.zeros(0),
    }
    kv = np.zeros(kv_type(geometry, cache).resolve({"C": table.size}), np.float32)
    return {name: value.astype(np.int32) for name, value in ints.items()} | {"kv": kv}


class _Parameters(Mapping[str, np.ndarray]):
    """What `@prepare` makes, each when it is asked for: a model's weights in f32 need not fit into memory."""

    def __init__(self, module: mlir.Module, checkpoint: Checkpoint) -> None:
        self._module, self._checkpoint = module, checkpoint
        exports = (op for op in functions(module)[PREPARE].ops if is_op(op, export))
        self._names = [op.attributes["name"].value for op in exports]

    def __getitem__(self, name: str) -> np.ndarray:
        load = partial(load_tensor, self._checkpoint.tensors)
        return next(array for _, array in evaluate_exports(self._module, load, {name}))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
