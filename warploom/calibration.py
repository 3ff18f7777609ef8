"""Scales for activation-aware quantization: the interpreter reads a text, and its activations are looked at.

The program is the one that was traced, in f32, so every model that compiles can be calibrated, on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import mlir.ir as mlir
import numpy as np
from tokenizers import Tokenizer

from warploom.codegen.backend import Progress
from warploom.errors import CompileError
from warploom.frontend.checkpoint import Checkpoint
from warploom.frontend.models.inputs import CacheSpec
from warploom.frontend.stacked import load_tensor
from warploom.frontend.tensors import LazyTensor
from warploom.frontend.trace import Limits, geometry_of, kv_type, trace
from warploom.ir.function import functions
from warploom.ir.interpreter import evaluate, evaluate_exports
from warploom.ir.types import DType
from warploom.passes.cse import cse
from warploom.passes.quantization.activation_aware import best_scales
from warploom.passes.quantization.scheme import Rules
from warploom.passes.quantize_weights import module_paths
from warploom.passes.scale_activations import ScaledInput, scaled_inputs
from warploom.passes.simplify import simplify

WINDOW, WINDOWS = 256, 6  # tokens of a sequence, and how many
PAGE_SIZE = 16
SAMPLES = 512  # rows of activations that are kept of each input


def calibrate(checkpoint: Checkpoint, rules: Rules, text: str, progress: Progress) -> dict[str, LazyTensor]:
    """Tensors of scales by name, for the inputs that the rules want scaled; in the current MLIR context.

    Raises:
        CompileError: the text has too few tokens.
    """
    tokens = Tokenizer.from_str(checkpoint.tokenizer.tokenizer_json).encode(text, add_special_tokens=False).ids
    if len(tokens) < WINDOW:
        raise CompileError(
            "the calibration text is too short",
            expected=f"at least {WINDOW} tokens, better {WINDOW * WINDOWS}",
            found=f"{len(tokens)} tokens",
            fix="give a longer text of the kind that the model will read",
        )
    windows = [tokens[i : i + WINDOW] for i in range(0, len(tokens) - WINDOW + 1, WINDOW)][:WINDOWS]
    cache, limits = CacheSpec(PAGE_SIZE, DType.F32, "token_major"), Limits(WINDOW, 1, WINDOW)
    module = trace(checkpoint.config, checkpoint.require, cache, limits)
    simplify(module)
    cse(module)
    inputs = list(scaled_inputs(functions(module)["step"], rules))
    rows = _activations(module, checkpoint, inputs, windows, cache)
    scales = {}
    for done, found in enumerate(inputs, 1):
        scales[found.name] = _scales(found, checkpoint, rules, rows.pop(found.name))
        progress("calibrating", done / len(inputs))
    return scales


def _activations(
    module: mlir.Module,
    checkpoint: Checkpoint,
    inputs: Sequence[ScaledInput],
    windows: Sequence[Sequence[int]],
    cache: CacheSpec,
) -> dict[str, np.ndarray]:
    """Rows of each input, f32 [samples, k], spread over the text."""
    watched = {found.linears[0].operands[0]: found.name for found in inputs}
    rows: dict[str, list[np.ndarray]] = {found.name: [] for found in inputs}
    keep = max(1, len(windows) * WINDOW // SAMPLES)

    def look(value: mlir.Value, array: np.ndarray) -> None:
        if value in watched:
            rows[watched[value]].append(array[::keep].copy())

    params = dict(evaluate_exports(module, lambda name: load_tensor(checkpoint.tensors, name)))
    kv = kv_type(geometry_of(checkpoint.config), cache).resolve({"C": WINDOW // PAGE_SIZE})
    for window in windows:
        evaluate(module, "step", _step(window, np.zeros(kv, np.float32)), params, look=look)
    return {name: np.concatenate(found) for name, found in rows.items()}


def _step(tokens: Sequence[int], kv: np.ndarray) -> Mapping[str, np.ndarray]:
    """One sequence from its beginning."""
    count = len(tokens)
    ints = {
        "token_ids": tokens,
        "positions": range(count),
        "slots": range(count),
        "page_table": [range(count // PAGE_SIZE)],
        "query_start": [0, count],
        "context_lens": [count],
        "logit_rows": [count - 1],
    }
    return {name: np.array(value, np.int32) for name, value in ints.items()} | {"kv": kv}


def _scales(found: ScaledInput, checkpoint: Checkpoint, rules: Rules, rows: np.ndarray) -> LazyTensor:
    names = [f"{module_paths(operation)[-1]}.weight" for operation in found.linears]
    weights = [checkpoint.tensors[name].load().astype(np.float32) for name in names]
    scheme = rules.scheme_of(module_paths(found.linears[0]))
    assert scheme is not None
    assert scheme.calibration is not None
    scales = best_scales(rows, weights, scheme.calibration)
    return LazyTensor(found.name, scales.shape, "f32", "the calibration text", partial(np.asarray, scales))
