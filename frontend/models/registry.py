"""Which architectures we compile. A family registers itself by being a module of this package with a `FAMILY`."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import Any, Protocol

import mlir.ir as mlir

from warploom import errors
from warploom.frontend import models
from warploom.frontend.models.inputs import StepInputs
from warploom.frontend.models.weights import Weights


@dataclass(frozen=True)
class Geometry:
    """What the KV cache and the runtime need to know of a model.

    The cache keeps for a token, kv head and layer a key and a value of `head_dim` numbers; with a `latent`, one row
    that is both, of which so many numbers are the latent.
    """

    vocab_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    max_context: int
    latent: int = 0

    @property
    def kv_tensors(self) -> int:
        """What the cache keeps for a token, kv head and layer."""
        return 1 if self.latent else 2

    @property
    def row(self) -> tuple[int, int]:
        """Numbers of a latent, and of the rotated key behind it."""
        return self.latent, self.head_dim - self.latent


class Model(Protocol):
    """A model of a family, as its config describes it."""

    @property
    def geometry(self) -> Geometry:
        """Its sizes."""

    def forward(self, weights: Weights, step: StepInputs) -> tuple[mlir.Value, mlir.Value]:
        """Trace one step: logits [R, V] and the updated kv."""


@dataclass(frozen=True)
class Family:
    """A model family: how to read its config.

    Attributes:
        name: as people call it.
        architectures: values of `architectures[0]` in config.json.
        parse: HF config to a model; refuses what it does not implement.
        features: what sets it apart from Llama, in a few words each.
        checked: targets on which tiny checkpoints of it are compared with transformers.
    """

    name: str
    architectures: tuple[str, ...]
    parse: Callable[[Mapping[str, Any]], Model]
    features: tuple[str, ...] = ()
    checked: tuple[str, ...] = ("cpu",)


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
        UnsupportedModelError: we have no such family; the message names the nearest one.
    """
    stated = config.get("architectures") or ["none stated"]
    name = str(stated[0] if isinstance(stated, list) else stated)
    if name not in families():
        nearest = get_close_matches(name, families(), n=1, cutoff=0.0)[0]
        raise errors.UnsupportedModelError(
            f"architecture {name} is not supported",
            expected=", ".join(sorted(families())),
            found=f"{name} (model_type {config.get('model_type')}); the nearest that we have is {nearest}",
            fix="use a model of a supported architecture, or add a family: see docs/adding-a-family.md",
        )
    return families()[name]
