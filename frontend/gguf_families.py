"""How llama.cpp's converter writes each family: names, changed weights, and where the config's fields went.

Facts from llama.cpp (`conversion/*.py`, `src/models/*.cpp`, `src/llama-model.cpp`). Names of tensors come from the
`gguf` package's own table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import gguf

from warploom.errors import UnsupportedModelError
from warploom.frontend.gguf_file import GGUFFile
from warploom.frontend.gguf_metadata import Metadata

Fields = dict[str, Any]
PROJECTIONS = tuple(f"self_attn.{name}_proj" for name in "qkvo")
QK_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
GATED = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
LLAMA = ("input_layernorm", *PROJECTIONS, "post_attention_layernorm", *GATED)
POST = ("post_attention_layernorm", "post_feedforward_layernorm")
GEMMA = (*LLAMA, "pre_feedforward_layernorm", "post_feedforward_layernorm")
COHERE = tuple(module for module in LLAMA if module != "post_attention_layernorm")
MODEL = ("model.embed_tokens", "model.norm", "lm_head")
EXPERTS = tuple(f"mlp.experts.{name}_proj" for name in ("gate", "up", "down"))
SPARSE = ("input_layernorm", *PROJECTIONS, "post_attention_layernorm", "mlp.gate", *EXPERTS)
SHARED = ("mlp.shared_expert_gate", *(f"mlp.shared_expert.{name}_proj" for name in ("gate", "up", "down")))
MIXTRAL = (
    *("input_layernorm", *PROJECTIONS, "post_attention_layernorm", "block_sparse_moe.gate"),
    *(f"block_sparse_moe.experts.{name}" for name in ("w1", "w2", "w3")),
)
NEOX = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")


@dataclass(frozen=True)
class GGUFFamily:
    """A value of `general.architecture`.

    Attributes:
        architecture: in Hugging Face's config.
        model_type: likewise.
        modules: of a layer, in Hugging Face's names.
        fields: the config's fields beyond the usual sizes and RoPE.
        permuted: rows of q and k are reordered from halves to neighbours within each head.
        separated: rows of a projection of q, k and v, which stand head by head, are reordered to all q, all k, all v.
        norm_offset: what was added to the weights of norms.
        partial: a part of a head may be rotated.
        layers: the module that holds the layers.
        model: the other modules.
        with_experts: what files with experts hold instead, where those without are of this family.
    """

    architecture: str
    model_type: str
    modules: tuple[str, ...]
    fields: Callable[[Metadata], Fields]
    permuted: bool = False
    separated: bool = False
    norm_offset: float = 0.0
    partial: bool = False
    layers: str = "model.layers"
    model: tuple[str, ...] = MODEL
    with_experts: GGUFFamily | None = None

    @property
    def has_experts(self) -> bool:
        """Whether its layers hold experts, those of a layer stacked in one tensor."""
        return any(".experts." in module for module in self.modules)


def gguf_family(file: GGUFFile) -> tuple[str, GGUFFamily]:
    """The architecture of a file, which is also the prefix of its keys, and its family.

    Raises:
        UnsupportedModelError: another architecture.
    """
    name = Metadata(file, "general.").text("architecture", default="")
    if name not in GGUF_FAMILIES:
        raise UnsupportedModelError(
            f"the architecture of {file.path} is not supported",
            expected=f"one of {', '.join(GGUF_FAMILIES)}",
            found=name or "no general.architecture",
            fix="use the model's safetensors checkpoint if its architecture is supported there: `warploom models`",
        )
    family = GGUF_FAMILIES[name]
    experts = Metadata(file, f"{name}.").integer("expert_count", default=0)
    return name, family.with_experts if experts and family.with_experts else family


@cache
def hf_modules(name: str, family: GGUFFamily, num_layers: int) -> Mapping[str, str]:
    """Hugging Face's module by GGUF's, of a whole model; experts without their index."""
    (arch,) = (arch for arch, text in gguf.MODEL_ARCH_NAMES.items() if text == name)
    names = gguf.get_tensor_name_map(arch, num_layers)
    layers = (f"{family.layers}.{i}.{module}" for i in range(num_layers) for module in family.modules)
    modules = [*family.model, *layers]
    return {stored: module for module in modules if (stored := names.get_name(module)) is not None}


def _llama(m: Metadata) -> Fields:
    """Llama, or Mistral if it has a window."""
    window = m.integer("attention.sliding_window", default=0)
    bias = {"attention_bias": "blk.0.attn_q.bias" in m.file.tensors, "mlp_bias": "blk.0.ffn_up.bias" in m.file.tensors}
    if window:
        return {**_rms(m), "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window}
    return _rms(m) | bias


def _rms(m: Metadata) -> Fields:
    return {"hidden_act": "silu", "rms_norm_eps": m.real("attention.layer_norm_rms_epsilon")}


def _gemma(m: Metadata, huge: int) -> Fields:
    """Scores are scaled by the size of a head, but in the largest model (`huge` layers) by that of hidden / heads."""
    hidden, heads = m.size("embedding_length"), m.size("attention.head_count")
    largest = m.size("block_count") == huge
    caps = {"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": m.real("attention.layer_norm_rms_epsilon"),
        "sliding_window": m.size("attention.sliding_window"),
        "query_pre_attn_scalar": hidden // heads if largest else m.size("attention.key_length"),
        **{field: m.real(key) if key in m else None for field, key in caps.items()},
    }


def _granite(m: Metadata) -> Fields:
    scales = {
        "attention_multiplier": "attention.scale",
        "embedding_multiplier": "embedding_scale",
        "residual_multiplier": "residual_scale",
        "logits_scaling": "logit_scale",
    }
    return _rms(m) | {field: m.real(key, default=1.0) for field, key in scales.items()}


def _phi3(m: Metadata) -> Fields:
    return _rms(m) | {"sliding_window": m.integer("attention.sliding_window", default=0) or None}


def _seed_oss(m: Metadata) -> Fields:
    biases = {"attention_bias": "attn_q", "attention_out_bias": "attn_output", "mlp_bias": "ffn_up"}
    return _rms(m) | {field: f"blk.0.{module}.bias" in m.file.tensors for field, module in biases.items()}


def _exaone4(m: Metadata) -> Fields:
    if "attention.sliding_window" not in m:
        return _rms(m) | {"sliding_window": None}
    sliding = m.items("attention.sliding_window_pattern", bool, m.size("block_count"))
    types = ["sliding_attention" if slides else "full_attention" for slides in sliding]
    return _rms(m) | {"sliding_window": m.size("attention.sliding_window"), "layer_types": types}


def _starcoder2(m: Metadata) -> Fields:
    """The converter drops the window, which is as long as the context that the models were trained for at first."""
    biased = "blk.0.attn_q.bias" in m.file.tensors
    return {"norm_epsilon": m.real("attention.layer_norm_epsilon"), "use_bias": biased, "sliding_window": None}


def _nemotron(m: Metadata) -> Fields:
    return {"hidden_act": "relu2", "norm_eps": m.real("attention.layer_norm_epsilon")}


def _stablelm(m: Metadata) -> Fields:
    return {
        "layer_norm_eps": m.real("attention.layer_norm_epsilon"),
        "use_parallel_residual": m.flag("use_parallel_residual", default=False),
        "use_qkv_bias": "blk.0.attn_q.bias" in m.file.tensors,
    }


def _neox(m: Metadata) -> Fields:
    return {
        "hidden_act": "gelu",
        "layer_norm_eps": m.real("attention.layer_norm_epsilon"),
        "use_parallel_residual": m.flag("use_parallel_residual", default=True),
    }


def _cohere(m: Metadata) -> Fields:
    return {
        "layer_norm_eps": m.real("attention.layer_norm_epsilon"),
        "logit_scale": m.real("logit_scale"),
        "use_qk_norm": "blk.0.attn_q_norm.weight" in m.file.tensors,
    }


def _cohere2(m: Metadata) -> Fields:
    return _cohere(m) | {"sliding_window": m.size("attention.sliding_window")}


def _glm4(m: Metadata) -> Fields:
    return _rms(m) | {"attention_bias": "blk.0.attn_q.bias" in m.file.tensors}


def _experts(m: Metadata, count: str = "num_experts") -> Fields:
    return _rms(m) | {count: m.size("expert_count"), "num_experts_per_tok": m.size("expert_used_count")}


def _mixtral(m: Metadata) -> Fields:
    return _experts(m, "num_local_experts") | {
        "sliding_window": m.integer("attention.sliding_window", default=0) or None
    }


def _qwen3_moe(m: Metadata) -> Fields:
    """Shares of Qwen 3's experts are always normalized in llama.cpp."""
    return _experts(m) | {"moe_intermediate_size": m.size("expert_feed_forward_length"), "norm_topk_prob": True}


def _qwen2_moe(m: Metadata) -> Fields:
    return _experts(m) | {
        "moe_intermediate_size": m.size("expert_feed_forward_length"),
        "shared_expert_intermediate_size": m.size("expert_shared_feed_forward_length"),
        "qkv_bias": "blk.0.attn_q.bias" in m.file.tensors,
    }


GGUF_FAMILIES: Mapping[str, GGUFFamily] = {
    "llama": GGUFFamily(
        "LlamaForCausalLM",
        "llama",
        LLAMA,
        _llama,
        permuted=True,
        with_experts=GGUFFamily("MixtralForCausalLM", "mixtral", MIXTRAL, _mixtral, permuted=True),
    ),
    "qwen3moe": GGUFFamily("Qwen3MoeForCausalLM", "qwen3_moe", (*SPARSE, *QK_NORMS), _qwen3_moe),
    "qwen2moe": GGUFFamily("Qwen2MoeForCausalLM", "qwen2_moe", (*SPARSE, *SHARED), _qwen2_moe),
    "olmoe": GGUFFamily("OlmoeForCausalLM", "olmoe", (*SPARSE, *QK_NORMS), _experts),
    "qwen2": GGUFFamily("Qwen2ForCausalLM", "qwen2", LLAMA, _rms),
    "qwen3": GGUFFamily("Qwen3ForCausalLM", "qwen3", (*LLAMA, *QK_NORMS), _rms),
    "gemma2": GGUFFamily("Gemma2ForCausalLM", "gemma2", GEMMA, lambda m: _gemma(m, huge=46), norm_offset=1.0),
    "gemma3": GGUFFamily(
        "Gemma3ForCausalLM", "gemma3_text", (*GEMMA, *QK_NORMS), lambda m: _gemma(m, huge=62), norm_offset=1.0
    ),
    "phi3": GGUFFamily(
        "Phi3ForCausalLM",
        "phi3",
        (
            *("input_layernorm", "self_attn.qkv_proj", "self_attn.o_proj", "post_attention_layernorm"),
            *("mlp.gate_up_proj", "mlp.down_proj"),
        ),
        _phi3,
        partial=True,
    ),
    "granite": GGUFFamily("GraniteForCausalLM", "granite", LLAMA, _granite, permuted=True),
    "smollm3": GGUFFamily("SmolLM3ForCausalLM", "smollm3", LLAMA, _rms, permuted=True),
    "seed_oss": GGUFFamily("SeedOssForCausalLM", "seed_oss", LLAMA, _seed_oss),
    "olmo2": GGUFFamily("Olmo2ForCausalLM", "olmo2", (*PROJECTIONS, *QK_NORMS, *POST, *GATED), _rms),
    "exaone4": GGUFFamily("Exaone4ForCausalLM", "exaone4", (*PROJECTIONS, *QK_NORMS, *POST, *GATED), _exaone4),
    "starcoder2": GGUFFamily(
        "Starcoder2ForCausalLM",
        "starcoder2",
        ("input_layernorm", *PROJECTIONS, "post_attention_layernorm", "mlp.c_fc", "mlp.c_proj"),
        _starcoder2,
    ),
    "nemotron": GGUFFamily(
        "NemotronForCausalLM",
        "nemotron",
        ("input_layernorm", *PROJECTIONS, "post_attention_layernorm", "mlp.up_proj", "mlp.down_proj"),
        _nemotron,
        norm_offset=1.0,
        partial=True,
    ),
    "gptneox": GGUFFamily(
        "GPTNeoXForCausalLM",
        "gpt_neox",
        ("input_layernorm", "post_attention_layernorm", *NEOX),
        _neox,
        separated=True,
        partial=True,
        layers="gpt_neox.layers",
        model=("gpt_neox.embed_in", "gpt_neox.final_layer_norm", "embed_out"),
    ),
    "command-r": GGUFFamily("CohereForCausalLM", "cohere", (*COHERE, *QK_NORMS), _cohere),
    "cohere2": GGUFFamily("Cohere2ForCausalLM", "cohere2", COHERE, _cohere2),
    "stablelm": GGUFFamily("StableLmForCausalLM", "stablelm", LLAMA, _stablelm, partial=True),
    "glm4": GGUFFamily(
        "Glm4ForCausalLM",
        "glm4",
        (
            *("input_layernorm", *PROJECTIONS, "post_attention_layernorm", "post_self_attn_layernorm"),
            *("post_mlp_layernorm", "mlp.gate_up_proj", "mlp.down_proj"),
        ),
        _glm4,
        partial=True,
    ),
}
