"""Scalings of rotations: the frequencies of transformers, wherever a config states them, and typed refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from warploom.errors import UnsupportedModelError
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.rope import SCALINGS, read_rotary, score_factor

HEAD, CONTEXT, THETA, ORIGINAL = 32, 512, 50000.0, "original_max_position_embeddings"
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FACTORS = {"short_factor": [1 + i / 8 for i in range(16)], "long_factor": [2.0 + i for i in range(16)]}
VARIANTS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": LLAMA3 | {ORIGINAL: 64},
    "llama3 of the whole context": LLAMA3,
    "yarn": {"rope_type": "yarn", "factor": 8.0, ORIGINAL: 64},
    "yarn by the contexts": {"rope_type": "yarn", "factor": None, ORIGINAL: 64},
    "yarn of the whole context": {"rope_type": "yarn", "factor": 8.0},
    "yarn, betas": {"rope_type": "yarn", "factor": 8.0, ORIGINAL: 64, "beta_fast": 8.0, "beta_slow": 2.0},
    "yarn, not truncated": {"rope_type": "yarn", "factor": 8.0, ORIGINAL: 64, "truncate": False},
    "yarn, attention": {"rope_type": "yarn", "factor": 8.0, ORIGINAL: 64, "attention_factor": 0.8},
    "yarn, mscale": {"rope_type": "yarn", "factor": 8.0, ORIGINAL: 64, "mscale": 0.7, "mscale_all_dim": 1.1},
    "yarn, one mscale": {"rope_type": "yarn", "factor": 8.0, ORIGINAL: 64, "mscale": 0.7, "mscale_all_dim": 0.0},
    "yarn, attention before mscale": {"rope_type": "yarn", "factor": 8.0, ORIGINAL: 64, "attention_factor": 0.8}
    | {"mscale": 0.7, "mscale_all_dim": 1.1},
    "yarn, factor below 1": {"rope_type": "yarn", "factor": 0.5, ORIGINAL: 64},
    "longrope": {"rope_type": "longrope", ORIGINAL: 64, **FACTORS},
    "longrope, factor": {"rope_type": "longrope", ORIGINAL: 64, "factor": 3.0, **FACTORS},
    "longrope, attention": {"rope_type": "longrope", ORIGINAL: 64, "attention_factor": 1.3, **FACTORS},
}


def placed(parameters: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The same in every spelling of a config."""
    old = {("type" if name == "rope_type" else name): value for name, value in parameters.items()}
    outside = {name: value for name, value in parameters.items() if name != ORIGINAL}
    found: dict[str, dict[str, Any]] = {
        "transformers 4": {"rope_theta": THETA, "rope_scaling": parameters},
        "before rope_type": {"rope_theta": THETA, "rope_scaling": old},
        "both": {"rope_scaling": (both := {**parameters, "rope_theta": THETA}), "rope_parameters": both},
        "transformers 5": {"rope_parameters": both},
    }
    if ORIGINAL in parameters:
        stated = {"rope_theta": THETA, ORIGINAL: parameters[ORIGINAL]}
        found["original outside"] = {**stated, "rope_scaling": outside}
        found["original twice"] = {**stated, "rope_scaling": {**parameters, ORIGINAL: 256}}
    return found


CASES = [(name, place) for name, parameters in VARIANTS.items() for place in placed(parameters)]


def test_every_scaling_is_compared() -> None:
    assert {parameters["rope_type"] for parameters in VARIANTS.values()} | {"default", "su"} == SCALINGS.keys()


@pytest.mark.parametrize(("name", "place"), CASES)
def test_frequencies_are_those_of_transformers(name: str, place: str) -> None:
    fields = placed(VARIANTS[name])[place] | {"max_position_embeddings": CONTEXT}
    config = LlamaConfig(hidden_size=4 * HEAD, num_attention_heads=4, **fields)
    rotary = read_rotary(ConfigReader(fields, "Any"), HEAD)
    rotate = ROPE_INIT_FUNCTIONS[VARIANTS[name]["rope_type"]]
    frequencies, attention = rotate(config, None, CONTEXT if rotary.switch == 0 else rotary.switch)
    np.testing.assert_allclose(rotary.inv_freq, frequencies, rtol=2e-6)
    assert rotary.attention_factor == pytest.approx(attention)
    if rotary.switch:
        frequencies, _ = rotate(config, None, CONTEXT)
        np.testing.assert_allclose(rotary.long_inv_freq, frequencies, rtol=2e-6)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_type_of_layers_has_parameters_of_its_own(name: str) -> None:
    own = {**VARIANTS[name], "rope_theta": THETA}
    if own["rope_type"] == "longrope":
        own[ORIGINAL] = 64
    outside = {"max_position_embeddings": CONTEXT, "rope_theta": 1.5}
    sets = {"full_attention": own, "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}
    read = ConfigReader({"rope_parameters": sets, **outside}, "Any")
    alone = ConfigReader({"rope_parameters": own, **outside}, "Any")
    assert read_rotary(read, HEAD, layer_type="full_attention") == read_rotary(alone, HEAD)
    plain = read_rotary(ConfigReader({"rope_theta": 100.0}, "Any"), HEAD)
    assert read_rotary(read, HEAD, layer_type="sliding_attention") == plain
    with pytest.raises(UnsupportedModelError, match="rope_parameters"):
        read_rotary(read, HEAD)  # of a family whose layers are of one type


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_theta": 0.0}, "rope_theta above 0"),
        ({"rope_theta": "10000"}, "rope_theta above 0"),
        ({"rope_scaling": {"type": "linear"}}, "factor above 0, not None"),
        ({"rope_scaling": {"type": "linear", "factor": -1.0}}, "factor above 0"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 32}}, "not beta_fast"),
        ({"rope_scaling": {"type": "longrope", **FACTORS}}, f"{ORIGINAL} above 0, not None"),
        ({"rope_scaling": {"type": "proportional"}}, "rope_type default, linear"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"factor": 3.0}}, "one of them alone"),
        ({"partial_rotary_factor": 0.5}, "rotated whole"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "rotated whole"),
        ({"partial_rotary_factor": 1.5}, "at most 1"),
        ({"partial_rotary_factor": 0.0}, "partial_rotary_factor above 0"),
    ],
)
def test_what_is_out_of_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        read_rotary(ConfigReader({"max_position_embeddings": CONTEXT, **fields}, "Any"), HEAD)


def test_scores_under_yarn() -> None:
    yarn = {"rope_type": "yarn", "factor": 8.0, ORIGINAL: 64}
    fields = [yarn, {**yarn, "mscale_all_dim": 0.9}, {**yarn, "mscale_all_dim": 0.9, "factor": 1.0}]
    found = [score_factor(ConfigReader({"rope_scaling": one}, "Any")) for one in fields]
    assert found == pytest.approx([1.0, (0.1 * 0.9 * np.log(8) + 1) ** 2, 1.0])
