"""What the Llama architecture comes with, on tiny random models made by transformers: logits against it in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from tests.model.teacher import Teacher
from warploom.compiler import compile

TOLERANCE = 2e-4
TINY: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # large, so that a mistake shows in the logits
}


def rope(kind: str, **parameters: Any) -> dict[str, Any]:
    """transformers' rope_parameters."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **parameters}}


LLAMA: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "no_groups": {"num_key_value_heads": 6},
    "one_kv_head": {"num_key_value_heads": 1},
    "wide_heads": {"head_dim": 32},
    "rope_linear": rope("linear", factor=4.0),
    "rope_dynamic": rope("dynamic", factor=2.0),
    "rope_llama3": rope(
        "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64
    ),
    "rope_yarn": rope("yarn", factor=4.0, original_max_position_embeddings=64),
}


def save(model: PreTrainedModel, folder: Path) -> None:
    """A checkpoint with a tokenizer of bytes."""
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[: TINY["vocab_size"]]
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


def check(model: PreTrainedModel, folder: Path) -> None:
    """Prefill at once and in chunks equals transformers at every position, past every threshold."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)  # transformers starts them at zero, where a lost one would not show
    model.eval()
    save(model, folder)
    artifact = compile(folder, quantization="f32", out=folder / "artifact")
    ids = np.random.default_rng(0).integers(0, TINY["vocab_size"], 200).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    with Teacher(artifact, threads=1) as teacher:
        for chunks in ([200], [1, 70, 64, 65]):
            worst = np.abs(teacher.logits(ids, chunks) - expected).max()
            assert worst <= TOLERANCE, (chunks, worst)
    assert np.abs(expected).max() > 100 * TOLERANCE


@pytest.mark.parametrize("variant", LLAMA)
def test_llama(variant: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    check(LlamaForCausalLM(LlamaConfig(**TINY | LLAMA[variant])), tmp_path)


def test_mistral_beyond_its_window(tmp_path: Path) -> None:
    torch.manual_seed(0)
    check(MistralForCausalLM(MistralConfig(**TINY, sliding_window=37)), tmp_path)
