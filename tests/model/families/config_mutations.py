"""Configs with one field changed: the program that we make of them, and the logits that transformers makes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from tests.model.families.case import COMMON, VOCAB, Case
from warploom.errors import WarploomError
from warploom.frontend.dummy import dummy_tensor
from warploom.frontend.models.inputs import CacheSpec
from warploom.frontend.trace import Limits, trace
from warploom.ir.context import print_module
from warploom.ir.types import DType

Path = tuple[str, ...]
LENGTH = 48  # beyond every window of the cases, within their original contexts
CACHE = CacheSpec(page_size=16, dtype=DType.F32, k_layout="dim_major")
NO_FIELDS = frozenset({"architectures", "model_type", "transformers_version", "id2label", "label2id", "dtype"})
WORDS = ("gelu", "silu", "relu2", "alibi", "softmax", "sigmoid", "greedy")
TYPES = ("full_attention", "sliding_attention", "dense", "sparse")
# Parameters of rotations that need not be stated.
ROTATIONS = {
    "factor": 3.0,
    "attention_factor": 0.6,
    "beta_fast": 20.0,
    "beta_slow": 2.0,
    "mscale": 0.5,
    "mscale_all_dim": 0.6,
    "truncate": False,
    "original_max_position_embeddings": 32,
    "partial_rotary_factor": 0.5,
}


def fields_of(case: Case) -> dict[str, Any]:
    """What a case states."""
    if "text_config" in case.fields:
        return {**case.fields, "text_config": COMMON | case.fields["text_config"]}
    return COMMON | dict(case.fields)


def spelled_out(case: Case, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of transformers' config, defaults too, as config.json would have it."""
    given = {name: value for name, value in fields.items() if name not in NO_FIELDS}
    config = getattr(transformers, case.config)(**copy.deepcopy(given)).to_dict()
    found: dict[str, Any] = json.loads(json.dumps(config, default=str))
    return found | {"architectures": [case.model]}


def program(config: Mapping[str, Any]) -> str | None:
    """What we make of a config in the current MLIR context; None: it is refused, by one of our errors."""
    try:
        return print_module(trace(config, dummy_tensor, CACHE, Limits(64, 4, LENGTH)))
    except WarploomError:
        return None


def mutations(config: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """One field of a config, or of a part of it, and another value."""
    for name, value in config.items():
        here = (*path, name)
        if isinstance(value, dict):
            yield from mutations(value, here)
            if path[-1:] == ("rope_parameters",) or (name == "rope_parameters" and "rope_type" in value):
                yield from (((*here, key), other) for key, other in ROTATIONS.items() if key not in value)
        elif name not in NO_FIELDS:
            yield from ((here, other) for other in others(value) if other != value or type(other) is not type(value))


def others(value: Any) -> list[Any]:
    """Other values of a type; of null, of any."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value * 2, max(value // 2, 1), 0]
    if isinstance(value, float):
        return [value * 1.5 + 0.01, value * 0.5, 0.0]
    if isinstance(value, str):
        return list(WORDS)
    if value is None:
        return [True, 1, 3, 0.5, "gelu", [1, 0]]
    assert isinstance(value, list)
    return [value[::-1], value[:-1], *([kind] * len(value) for kind in TYPES if kind in value), [1], [0, 1]]


def changed(config: Mapping[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """A copy with one field changed."""
    copied = copy.deepcopy(dict(config))
    part = copied
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    return copied


def build(case: Case, config: Mapping[str, Any]) -> PreTrainedModel:
    """A seeded model of a config that is spelled out."""
    made = getattr(transformers, case.config)(**{k: v for k, v in config.items() if k not in NO_FIELDS})
    made._attn_implementation, made._experts_implementation = case.attention, "eager"
    torch.manual_seed(0)
    model: PreTrainedModel = getattr(transformers, case.model)(made)
    return model.eval()


class Oracle:
    """transformers, with the weights of a case."""

    def __init__(self, case: Case, config: Mapping[str, Any]) -> None:
        self._case = case
        model = build(case, config)
        self._state = model.state_dict()
        self._logits = _logits(model)

    def notices(self, config: Mapping[str, Any]) -> bool | None:
        """Whether another config is another model; None: it is none at all."""
        try:
            model = build(self._case, config)
            state = model.state_dict()
            shapes = {name: tensor.shape for name, tensor in state.items()}
            if shapes != {name: tensor.shape for name, tensor in self._state.items()}:
                return True
            model.load_state_dict(self._state)
            return not np.abs(_logits(model) - self._logits).max() <= 1e-6  # not a number counts too
        except Exception:  # whatever transformers says of nonsense
            return None


@torch.no_grad()
def _logits(model: PreTrainedModel) -> np.ndarray:
    ids = torch.tensor([np.random.default_rng(0).integers(3, VOCAB, LENGTH).tolist()])
    found: np.ndarray = model(ids, output_attentions=False, return_dict=True).logits[0].float().numpy()
    return found
