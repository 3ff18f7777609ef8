"""Random data to run a program on, the same for the same seed: inputs of its entries, and checkpoint tensors.

Inputs of `@step` describe a ragged batch: prompts that end somewhere in the middle of their pages, pages in random
order. A checkpoint tensor depends on its name alone, so that all stages of one compilation get the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from zlib import crc32

import mlir.ir as mlir
import numpy as np

from warploom.errors import InvalidRequestError
from warploom.ir.dims import DimRange
from warploom.ir.function import Function, functions
from warploom.ir.op import op_of
from warploom.ir.ops.latent_attention import latent_attention, latent_write
from warploom.ir.ops.parameters import checkpoint
from warploom.ir.ops.scaled_cache import ATTENTIONS, WRITES
from warploom.ir.rewrite import is_op
from warploom.ir.types import DType, TensorType, type_of

USUAL = {"T": 5, "S": 2, "R": 2, "P": 2, "C": 4, "H": 3, "B": 3, "M": 1}
PAGED = frozenset({"page_table", "query_start", "context_lens"})
RANGES = {  # of inputs of @sample; others are in [-1, 1], integers 0 or 1
    "logits": (-6.0, 6.0),
    "temperature": (0.3, 1.5),
    "top_k": (0, 20),
    "top_p": (0.5, 1.0),
    "min_p": (0.0, 0.1),
    "repetition_penalty": (0.8, 1.2),
    "seeds": (0, 1 << 30),
    "sample_positions": (0, 1000),
    "penalty_counts": (0, 3),
}
Arrays = dict[str, np.ndarray]


def usual_dims(function: Function, given: Mapping[str, int]) -> dict[str, int]:
    """Return a value for every symbol of an entry: the given one, else a small usual one within its bounds.

    Raises:
        InvalidRequestError: a given one is not a symbol of the entry or out of its bounds.
    """
    for name, value in given.items():
        known = function.dims.get(name)
        if known is None or not known.min <= value <= known.max or value % known.multiple_of:
            raise InvalidRequestError(
                f"@{function.name} cannot run with {name} = {value}",
                expected=", ".join(f"{n} in {r.min}..{r.max}" for n, r in function.dims.items()) or "no dims",
                found=f"{name}={value}",
            )
    return {name: given.get(name, _usual(name, known)) for name, known in function.dims.items()}


def _usual(name: str, known: DimRange) -> int:
    value = min(max(USUAL.get(name, 4), known.min), known.max)
    return max(value // known.multiple_of * known.multiple_of, known.min)


def random_inputs(module: mlir.Module, function: Function, dims: Mapping[str, int], seed: int) -> Arrays:
    """Return every input of an entry by name, in the shapes that `dims` give."""
    rng = np.random.default_rng(seed)
    types = {name: type_of(value) for name, value in function.inputs.items()}
    arrays = {name: _uniform(rng, name, type_, dims) for name, type_ in types.items()}
    if types.keys() >= PAGED and ("token_ids" in types or "T" in dims):
        arrays |= _ragged_batch(rng, types, dims, page_size_of(module))
    for name in types.keys() & {"penalty_tokens", "bias_tokens"}:
        arrays[name] = _distinct(rng, types[name].resolve(dims), types["logits"].resolve(dims)[-1])
    return {name: arrays[name] for name in types}


def checkpoint_tensors(module: mlir.Module, seed: int) -> Callable[[str], np.ndarray]:
    """Return a loader of random tensors for the `checkpoint` ops of `@prepare`."""
    prepare = functions(module).get("prepare")
    types = {
        op.attributes["name"].value: type_of(op.results[0])
        for op in (prepare.ops if prepare is not None else [])
        if op_of(op) is checkpoint
    }
    return lambda name: _weight(name, types[name], seed)


def _weight(name: str, type_: TensorType, seed: int) -> np.ndarray:
    """Matrices keep the size of what they multiply; vectors are gains near 1 or orders, bytes packed numbers."""
    rng = np.random.default_rng([crc32(name.encode()), seed])
    shape, numpy = type_.resolve({}), type_.dtype.numpy
    if type_.dtype is DType.I32 and len(shape) == 1:
        return rng.permutation(shape[0]).astype(numpy)
    if not type_.dtype.is_float:
        high = 100 if numpy.itemsize == 1 and numpy != np.bool_ else 1
        return rng.integers(0, high, shape, endpoint=True).astype(numpy)
    if len(shape) < 2:
        return rng.uniform(0.8, 1.2, shape).astype(numpy)
    return (rng.standard_normal(shape) / math.sqrt(shape[-1])).astype(numpy)


def _uniform(rng: np.random.Generator, name: str, type_: TensorType, dims: Mapping[str, int]) -> np.ndarray:
    shape, dtype = type_.resolve(dims), type_.dtype
    low, high = RANGES.get(name, (-1.0, 1.0) if dtype.is_float else (0, 1))
    if dtype.is_float:
        return rng.uniform(low, high, shape).astype(dtype.numpy)
    return rng.integers(int(low), int(high), shape, endpoint=True).astype(dtype.numpy)


def _distinct(rng: np.random.Generator, shape: tuple[int, ...], vocab: int) -> np.ndarray:
    """Rows of different tokens."""
    return np.stack([rng.permutation(vocab)[: shape[1]] for _ in range(shape[0])]).astype(np.int32).reshape(shape)


def page_size_of(module: mlir.Module) -> int:
    """Return the tokens of a page of the cache that a program writes or attends."""
    sizes = (
        int(op.attributes["page_size"].value)
        for function in functions(module).values()
        for op in function.ops
        if is_op(op, *ATTENTIONS, *WRITES, latent_attention, latent_write)
    )
    return next(sizes, 16)


def _ragged_batch(
    rng: np.random.Generator, types: Mapping[str, TensorType], dims: Mapping[str, int], page_size: int
) -> Arrays:
    """Inputs of `@step` that agree with each other."""
    (pages_each,) = types["page_table"].resolve(dims)[1:]
    num_tokens = types["token_ids"].resolve(dims)[0] if "token_ids" in types else dims["T"]
    num_seqs = types["page_table"].resolve(dims)[0]
    num_pages = types["kv"].resolve(dims)[1]
    if not num_seqs <= num_tokens or num_pages < num_seqs * pages_each:
        raise InvalidRequestError(
            "These dims hold no batch",
            expected="at least a token a sequence, and C of at least S * P pages",
            found=", ".join(f"{name}={value}" for name, value in dims.items()),
        )
    new = np.diff([0, *np.sort(rng.permutation(num_tokens - 1)[: num_seqs - 1]) + 1, num_tokens])
    room = pages_each * page_size - new
    if (room < 0).any():
        raise InvalidRequestError("These dims hold no batch", expected=f"at most {pages_each * page_size} tokens each")
    context = (new + rng.integers(0, np.minimum(room, page_size) + 1)).astype(np.int32)
    table = rng.permutation(num_pages)[: num_seqs * pages_each].reshape(num_seqs, pages_each).astype(np.int32)
    starts = np.array([0, *np.cumsum(new)], np.int32)
    rows = np.repeat(np.arange(num_seqs), new)
    positions = (np.arange(num_tokens) - np.repeat(starts[1:] - context, new)).astype(np.int32)
    logits = types["logit_rows"].resolve(dims)[0] if "logit_rows" in types else 0
    return {
        "token_ids": rng.integers(0, 2, num_tokens).astype(np.int32),
        "positions": positions,
        "slots": (table[rows, positions // page_size] * page_size + positions % page_size).astype(np.int32),
        "page_table": table,
        "query_start": starts,
        "context_lens": context,
        "logit_rows": rng.integers(0, num_tokens, logits).astype(np.int32),
    }
