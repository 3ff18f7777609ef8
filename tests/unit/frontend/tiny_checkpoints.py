"""Tiny Llama checkpoints, written by each test in the format that it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

HIDDEN, HEADS, KV_HEADS, INTERMEDIATE, LAYERS = 256, 4, 2, 512, 2
HEAD_DIM = HIDDEN // HEADS
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = (("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "hello"))
CHAT_TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"


def byte_level_tokens() -> list[str]:
    """Special tokens, the 256 byte letters, and what MERGES make."""
    return [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in MERGES)]


VOCAB = len(byte_level_tokens())


def tiny_config() -> dict[str, Any]:
    """A `config.json` of the Llama architecture."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": VOCAB,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def tiny_tensors() -> dict[str, NDArray[np.float32]]:
    """Random weights for `tiny_config` under Hugging Face names."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (HIDDEN,),
                "self_attn.q_proj": (HIDDEN, HIDDEN),
                "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
                "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
                "self_attn.o_proj": (HIDDEN, HIDDEN),
                "post_attention_layernorm": (HIDDEN,),
                "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
                "mlp.up_proj": (INTERMEDIATE, HIDDEN),
                "mlp.down_proj": (HIDDEN, INTERMEDIATE),
            }.items()
        }
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def tiny_tokenizer() -> Tokenizer:
    """A byte-level BPE that knows "hello"."""
    vocab = {token: index for index, token in enumerate(byte_level_tokens())}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


@dataclass
class GGUFContents:
    """What `write_gguf` writes; a test changes what it is about."""

    architecture: str = "llama"
    metadata: dict[str, Any] = field(
        default_factory=lambda: {
            "llama.block_count": LAYERS,
            "llama.context_length": 128,
            "llama.embedding_length": HIDDEN,
            "llama.feed_forward_length": INTERMEDIATE,
            "llama.attention.head_count": HEADS,
            "llama.attention.head_count_kv": KV_HEADS,
            "llama.attention.layer_norm_rms_epsilon": 1e-5,
            "llama.rope.freq_base": 10000.0,
            "llama.rope.dimension_count": HEAD_DIM,
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "smollm",
            "tokenizer.ggml.tokens": byte_level_tokens(),
            "tokenizer.ggml.token_type": [3] * len(SPECIAL_TOKENS) + [1] * (VOCAB - len(SPECIAL_TOKENS)),
            "tokenizer.ggml.merges": [" ".join(merge) for merge in MERGES],
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.chat_template": CHAT_TEMPLATE,
        }
    )
    tensors: Mapping[str, NDArray[np.float32]] = field(default_factory=lambda: gguf_tensors(tiny_tensors()))
    kind: GGMLQuantizationType = GGMLQuantizationType.F32


def gguf_tensors(tensors: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Hugging Face tensors as llama.cpp's converter names and orders them, by gguf's own name table."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    heads = {"q_proj": HEADS, "k_proj": KV_HEADS}
    renamed = {}
    for name, values in tensors.items():
        module = name.removesuffix(".weight")
        num_heads = heads.get(module.rsplit(".", 1)[-1])
        renamed[f"{names.get_name(module)}.weight"] = interleave(values, num_heads) if num_heads else values
    return renamed


def interleave(rows: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Rotate-half row order to the order of llama.cpp: element i of a head's halves become neighbours."""
    half = rows.shape[0] // num_heads // 2
    order = [
        head * 2 * half + part * half + index for head in range(num_heads) for index in range(half) for part in (0, 1)
    ]
    return rows[order]


def put(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Write one metadata value with the type that llama.cpp's converter uses for such a value."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
