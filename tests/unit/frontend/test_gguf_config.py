"""The config that GGUF metadata describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.frontend.tiny_checkpoints import HEAD_DIM, VOCAB, GGUFContents, tiny_config
from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend.gguf_config import config_from_gguf
from warploom.frontend.gguf_file import read_gguf_file

ReadConfig = Callable[[GGUFContents], dict[str, Any]]


@pytest.fixture
def read_config(write_gguf: Callable[[GGUFContents], Path]) -> ReadConfig:
    return lambda contents: config_from_gguf(read_gguf_file(write_gguf(contents)))


def test_agrees_with_the_config_that_the_model_had(read_config: ReadConfig, gguf_contents: GGUFContents) -> None:
    config = read_config(gguf_contents)
    assert tiny_config().items() <= config.items()
    assert config["head_dim"] == HEAD_DIM
    assert config["rope_scaling"] is None
    assert not config["attention_bias"]
    assert not config["mlp_bias"]


def test_untied_output_and_biases_show_in_the_tensors(read_config: ReadConfig, gguf_contents: GGUFContents) -> None:
    extra = {"output.weight": (VOCAB, 256), "blk.0.attn_q.bias": (256,), "blk.0.ffn_up.bias": (512,)}
    gguf_contents.tensors = {**gguf_contents.tensors, **{k: np.zeros(s, np.float32) for k, s in extra.items()}}
    config = read_config(gguf_contents)
    assert not config["tie_word_embeddings"]
    assert config["attention_bias"]
    assert config["mlp_bias"]


def test_sliding_window_makes_it_a_mistral(read_config: ReadConfig, gguf_contents: GGUFContents) -> None:
    gguf_contents.metadata["llama.attention.sliding_window"] = 64
    config = read_config(gguf_contents)
    assert (config["architectures"], config["sliding_window"]) == (["MistralForCausalLM"], 64)


def test_absent_keys_take_the_formats_defaults(read_config: ReadConfig, gguf_contents: GGUFContents) -> None:
    for key in ("llama.attention.head_count_kv", "llama.rope.freq_base", "llama.rope.dimension_count"):
        del gguf_contents.metadata[key]
    config = read_config(gguf_contents)
    assert config["num_key_value_heads"] == config["num_attention_heads"]
    assert config["rope_theta"] == 10000.0


def test_head_size_of_its_own(read_config: ReadConfig, gguf_contents: GGUFContents) -> None:
    sizes = ("llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count")
    gguf_contents.metadata |= dict.fromkeys(sizes, 128)
    assert read_config(gguf_contents)["head_dim"] == 128


def test_linear_and_yarn_scaling(read_config: ReadConfig, gguf_contents: GGUFContents) -> None:
    gguf_contents.metadata |= {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    assert read_config(gguf_contents)["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    gguf_contents.metadata |= {
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.original_context_length": 32,
    }
    expected = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    assert read_config(gguf_contents)["rope_scaling"] == expected


def test_rope_factors_mean_to_transformers_what_llama3_scaling_meant(
    read_config: ReadConfig, gguf_contents: GGUFContents
) -> None:
    """A Llama 3.1 model, its factors written as llama.cpp's converter does, has the frequencies it had."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    original = LlamaConfig(**tiny_config() | {"rope_parameters": {"rope_theta": 10000.0, **scaling}})
    inv_freq, _ = ROPE_INIT_FUNCTIONS["llama3"](original, "cpu")
    plain = 10000.0 ** -(np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    factors = (plain / inv_freq.numpy()).astype(np.float32)
    assert factors.max() == pytest.approx(8)
    gguf_contents.tensors = {**gguf_contents.tensors, "rope_freqs.weight": factors}

    config = read_config(gguf_contents)
    carried = LlamaConfig(
        **config | {"rope_parameters": {"rope_theta": config["rope_theta"], **config["rope_scaling"]}}
    )
    for sequence_length in (1, 1000):
        carried_inv_freq, attention_factor = ROPE_INIT_FUNCTIONS["longrope"](carried, "cpu", sequence_length)
        np.testing.assert_allclose(carried_inv_freq.numpy(), inv_freq.numpy(), rtol=1e-6)
        assert attention_factor == 1.0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.rope.scaling.type", "su", "RoPE scaling"),
        ("llama.rope.dimension_count", 32, "unequal sizes"),
        ("llama.attention.value_length", 32, "unequal sizes"),
        ("split.count", 3, "split model"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(
    read_config: ReadConfig, gguf_contents: GGUFContents, key: str, value: int | str, message: str
) -> None:
    gguf_contents.metadata[key] = value
    with pytest.raises(UnsupportedModelError, match=message):
        read_config(gguf_contents)


def test_experts_of_an_architecture_that_has_none_here_are_refused(
    read_config: ReadConfig, gguf_contents: GGUFContents
) -> None:
    keys = {key.replace("llama.", "granite."): value for key, value in gguf_contents.metadata.items()}
    contents = replace(gguf_contents, architecture="granite", metadata=keys | {"granite.expert_count": 8})
    with pytest.raises(UnsupportedModelError, match="mixture of experts"):
        read_config(contents)


def test_other_architectures_are_refused_with_the_supported(
    read_config: ReadConfig, gguf_contents: GGUFContents
) -> None:
    gguf_contents.architecture = "mamba"
    with pytest.raises(UnsupportedModelError, match="architecture") as caught:
        read_config(gguf_contents)
    assert caught.value.found == "mamba"
    assert caught.value.expected is not None
    assert "llama" in caught.value.expected


@pytest.mark.parametrize("key", ["llama.block_count", "llama.embedding_length", "llama.context_length"])
def test_missing_keys_are_named(read_config: ReadConfig, gguf_contents: GGUFContents, key: str) -> None:
    del gguf_contents.metadata[key]
    with pytest.raises(CheckpointError, match="lacks metadata") as caught:
        read_config(gguf_contents)
    assert caught.value.expected == key


@pytest.mark.parametrize("value", [0, "many", 1.5, True, [4, 2]])
def test_unusable_values_are_named(read_config: ReadConfig, gguf_contents: GGUFContents, value: Any) -> None:
    gguf_contents.metadata["llama.attention.head_count"] = value
    with pytest.raises(CheckpointError, match=r"llama\.attention\.head_count"):
        read_config(gguf_contents)


def test_more_layers_than_there_are_is_no_reason_to_look_for_them(
    read_config: ReadConfig, gguf_contents: GGUFContents
) -> None:
    gguf_contents.metadata["llama.block_count"] = 2**31 - 1
    with pytest.raises(CheckpointError, match=r"llama\.block_count") as caught:
        read_config(gguf_contents)
    assert caught.value.expected == "at most 2, the layers that have tensors"


def test_an_embedding_of_another_width_is_named(read_config: ReadConfig, gguf_contents: GGUFContents) -> None:
    gguf_contents.metadata["llama.embedding_length"] = 512
    with pytest.raises(CheckpointError, match=r"llama\.embedding_length") as caught:
        read_config(gguf_contents)
    assert caught.value.found == "512"


def test_one_number_per_layer_is_taken_when_all_are_equal(read_config: ReadConfig, gguf_contents: GGUFContents) -> None:
    gguf_contents.metadata["llama.attention.head_count_kv"] = [2, 2]
    assert read_config(gguf_contents)["num_key_value_heads"] == 2


def test_missing_embedding_is_named(read_config: ReadConfig, gguf_contents: GGUFContents) -> None:
    gguf_contents.tensors = {k: v for k, v in gguf_contents.tensors.items() if k != "token_embd.weight"}
    with pytest.raises(CheckpointError, match="lacks a tensor"):
        read_config(gguf_contents)
