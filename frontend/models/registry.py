"""Which architectures we compile. A family registers itself by being a module of this package with a `FAMILY`."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import mlir.ir as mlir

from warploom import errors
from warploom.frontend import models
from warploom.frontend.models.inputs import StepInputs
from warploom.frontend.models.weights import Weights


@dataclass(frozen=True)
class Geometry:
    """What the KV cache and the runtime need to know of a model."""

    vocab_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    max_context: int


@dataclass(frozen=True)
class Family:
    """A model family: how to read its config and how to trace its forward pass.

    Attributes:
        architectures: values of `architectures[0]` in config.json.
        parse: HF config to the family's own config object; refuses what it does not implement.
        geometry: the sizes of that config.
        forward: traces one step; returns logits [R, V] and the updated kv.
    """

    architectures: tuple[str, ...]
    parse: Callable[[Mapping[str, Any]], Any]
    geometry: Callable[[Any], Geometry]
    forward: Callable[[Any, Weights, StepInputs], tuple[mlir.Value, mlir.Value]]


@cache
def families() -> dict[str, Family]:
    """All families by architecture."""
    found: dict[str, Family] = {}
    for info in pkgutil.iter_modules(models.__path__):
        family = getattr(import_module(f"{models.__name__}.{info.name}"), "FAMILY", None)
        if family is not None:
            found |= dict.fromkeys(family.architectures, family)
    return found


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a config.

    Raises:
        UnsupportedModelError: we have no such family; the message lists those we have.
    """
    names = config.get("architectures") or ["none stated"]
    if names[0] not in families():
        raise errors.UnsupportedModelError(
            f"architecture {names[0]} is not supported",
            expected=", ".join(sorted(families())),
            found=f"{names[0]} (model_type {config.get('model_type')})",
            fix="use a model of a supported architecture, or add a family: see frontend/models/llama.py",
        )
    return families()[names[0]]
