"""The GGUF reader on a real model, against the published config, transformers and llama.cpp."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from warploom.frontend.checkpoint import Checkpoint, open_checkpoint

# config.json of HuggingFaceTB/SmolLM2-135M-Instruct, what bears on inference.
PUBLISHED_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
# Made with llama.cpp (llama-cpp-python 0.3.36), Llama.tokenize(text, add_bos=False, special=True).
LLAMA_CPP_IDS = {
    "The capital of France is": "504 3575 282 4649 314",
    "In 2024, 1234567 paid $3.50": "788 216 34 32 34 36 28 216 33 34 35 36 37 38 39 5940 1885 35 30 37 32",
    "x=10;y=007": "104 45 33 32 43 105 45 32 32 39",
    "<|im_start|>user\nHi 42!<|im_end|>\n": "1 4093 198 26843 216 36 34 17 2 198",
    "for i in range(n):\n    return [i**2]\n": "1710 2056 281 1845 24 94 727 472 1003 933 89 828 34 77 198",
    "naïve 日本語 العرب": "3546 46494 17097 241 115 40993 179 120 248 27819 34966 20602 31462",
    "\U0001f600\U0001f469\u200d\U0001f467": "10813 242 218 10813 235 119 321 231 10813 235 117",
    "  leading,   inner \t tabs\r\n\r\n  end  ": "216 2899 28 256 6210 216 197 29416 18682 216 1112 256",
    "\xbd \xb2 \u2167 \u0663 \u0967\u0968": "16738 216 19133 216 173 223 117 216 164 113 216 9310 117 9310 118",
    "I'm you'll THEY'RE": "57 5248 346 3060 6462 73 23 3256",
    "<|endoftext|> and <|im_end": "0 284 2067 108 306 79 486",
    "\xa0\u2003\u200b\ufeff|": "15442 321 221 321 229 186 136 140 108",
    "a\x00b\x7f": "81 190 82 217",
}


@pytest.fixture(scope="module")
def checkpoint(smollm2_gguf: Path) -> Checkpoint:
    return open_checkpoint(smollm2_gguf)


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    return Tokenizer.from_str(checkpoint.tokenizer.tokenizer_json)


def test_config_is_the_published_one(checkpoint: Checkpoint) -> None:
    assert PUBLISHED_CONFIG.items() <= checkpoint.config.items()


def test_facts_beside_the_vocabulary(checkpoint: Checkpoint) -> None:
    facts = checkpoint.tokenizer
    assert (facts.bos_token, facts.eos_token, facts.add_bos) == ("<|im_start|>", "<|im_end|>", False)
    assert facts.eos_token_ids[0] == 2
    assert facts.chat_template is not None
    assert "<|im_start|>" in facts.chat_template


@pytest.mark.parametrize("text", LLAMA_CPP_IDS)
def test_encodes_like_llama_cpp(tokenizer: Tokenizer, text: str) -> None:
    ids = [int(token) for token in LLAMA_CPP_IDS[text].split()]
    assert tokenizer.encode(text).ids == ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.fixture(scope="module")
def transformers_tokenizer(smollm2_gguf: Path) -> Tokenizer:
    from transformers import AutoTokenizer

    converted = AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    backend: Tokenizer = converted.backend_tokenizer
    return backend


# transformers' conversion forgets that this model cuts numbers into digits, hence text without numbers.
TEXT_WITHOUT_NUMBERS = st.text(st.characters(exclude_categories=("Cs", "Nd", "Nl", "No")), max_size=60)
SPECIAL = st.sampled_from(["<|im_start|>", "<|im_end|>", "<|endoftext|>", "\n", "  ", " the", "'s"])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(TEXT_WITHOUT_NUMBERS | SPECIAL, max_size=6))
def test_encodes_like_transformers(tokenizer: Tokenizer, transformers_tokenizer: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert ids == transformers_tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.filterwarnings("ignore")  # what transformers and torch deprecate inside of themselves
def test_every_tensor_is_what_transformers_reads(checkpoint: Checkpoint, smollm2_gguf: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers reads GGUF weights through accelerate")
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32)
    expected = {name: value.numpy() for name, value in model.state_dict().items() if name != "lm_head.weight"}
    assert checkpoint.tensors.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(checkpoint.require(name, values.shape).load(), values, err_msg=name)
