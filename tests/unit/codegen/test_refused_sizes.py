"""Sizes that no kernel takes are refused with the reason of the kernel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import warploom
from warploom.errors import CompileError

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 20,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize("kv_cache", ["auto", "fp8", "int8"])
def test_a_size_of_heads_is_named(kv_cache: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(CompileError, match=r"keys and values of model\.layers\.0\.self_attn") as caught:
        warploom.compile(tmp_path, target="cpu", kv_cache=kv_cache, dummy_weights=True, out=tmp_path / "artifact")
    assert "head_dim must be a multiple of 16; here 20" in str(caught.value.found)
