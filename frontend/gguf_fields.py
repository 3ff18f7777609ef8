"""The config's fields of each family beyond the usual ones, as a GGUF's metadata and tensors tell them.

Facts from llama.cpp (`conversion/*.py`, `src/models/*.cpp`, `src/llama-model.cpp`, `src/llama-context.cpp`). Each
function takes the keys of a file that begin with its architecture.
"""

from __future__ import annotations

from typing import Any

from gguf import ExpertGatingFuncType

from warploom.errors import UnsupportedModelError
from warploom.frontend.gguf_metadata import Metadata

Fields = dict[str, Any]
SCALING = "rope.scaling."
WINDOW, PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"


def has(m: Metadata, *tensors: str) -> bool:
    """Whether the first layer has one of these tensors."""
    return any(f"blk.0.{tensor}" in m.file.tensors for tensor in tensors)


def rms(m: Metadata) -> Fields:
    """Of every family with RMSNorm and SwiGLU."""
    return {"hidden_act": "silu", "rms_norm_eps": m.real("attention.layer_norm_rms_epsilon")}


def llama(m: Metadata) -> Fields:
    """Llama, or Mistral if it has a window."""
    window = m.integer(WINDOW, default=0)
    if window:
        return {**rms(m), "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window}
    return rms(m) | {"attention_bias": has(m, "attn_q.bias"), "mlp_bias": has(m, "ffn_up.bias")}


def gemma(m: Metadata, huge: int) -> Fields:
    """Scores are scaled by the size of a head, but in the largest model (`huge` layers) by that of hidden / heads."""
    hidden, heads = m.size("embedding_length"), m.size("attention.head_count")
    largest = m.size("block_count") == huge
    caps = {"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": m.real("attention.layer_norm_rms_epsilon"),
        "sliding_window": m.size(WINDOW),
        "query_pre_attn_scalar": hidden // heads if largest else m.size("attention.key_length"),
        **{field: m.real(key) if key in m else None for field, key in caps.items()},
    }


def granite(m: Metadata) -> Fields:
    """Its multipliers."""
    scales = {
        "attention_multiplier": "attention.scale",
        "embedding_multiplier": "embedding_scale",
        "residual_multiplier": "residual_scale",
        "logits_scaling": "logit_scale",
    }
    return rms(m) | {field: m.real(key, default=1.0) for field, key in scales.items()}


def granite_moe(m: Metadata) -> Fields:
    """Granite, and the counts of experts; a shared one (GraniteMoeShared) is no part of the family that we have."""
    if m.integer("expert_shared_feed_forward_length", default=0):
        raise _untold(m, "a Granite with shared experts", "expert_shared_feed_forward_length of 0")
    return granite(m) | experts(m, "num_local_experts")


def phi3(m: Metadata) -> Fields:
    """A window, or none."""
    return rms(m) | {"sliding_window": m.integer(WINDOW, default=0) or None}


def seed_oss(m: Metadata) -> Fields:
    """Biases show in the tensors."""
    biases = {"attention_bias": "attn_q", "attention_out_bias": "attn_output", "mlp_bias": "ffn_up"}
    return rms(m) | {field: has(m, f"{module}.bias") for field, module in biases.items()}


def exaone4(m: Metadata) -> Fields:
    """Windows by layer, or none."""
    return rms(m) | ({"sliding_window": m.size(WINDOW), **_layer_types(m)} if WINDOW in m else {"sliding_window": None})


def olmo2(m: Metadata) -> Fields:
    """OLMo 2, or OLMo 3 if it has windows."""
    if WINDOW not in m:
        return rms(m)
    third: Fields = {"architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3"}
    return rms(m) | third | {"sliding_window": m.size(WINDOW), **(_layer_types(m) if PATTERN in m else {})}


def _layer_types(m: Metadata) -> Fields:
    sliding = m.items(PATTERN, bool, m.size("block_count"))
    return {"layer_types": ["sliding_attention" if slides else "full_attention" for slides in sliding]}


def starcoder2(m: Metadata) -> Fields:
    """The converter drops the window, which is as long as the context that the models were trained for at first."""
    biased = has(m, "attn_q.bias")
    return {"norm_epsilon": m.real("attention.layer_norm_epsilon"), "use_bias": biased, "sliding_window": None}


def nemotron(m: Metadata) -> Fields:
    """LayerNorm and squared ReLU."""
    return {"hidden_act": "relu2", "norm_eps": m.real("attention.layer_norm_epsilon")}


def stablelm(m: Metadata) -> Fields:
    """LayerNorm, biases, the residual pattern."""
    return {
        "layer_norm_eps": m.real("attention.layer_norm_epsilon"),
        "use_parallel_residual": m.flag("use_parallel_residual", default=False),
        "use_qkv_bias": has(m, "attn_q.bias"),
    }


def neox(m: Metadata) -> Fields:
    """LayerNorm, the residual pattern."""
    return {
        "hidden_act": "gelu",
        "layer_norm_eps": m.real("attention.layer_norm_epsilon"),
        "use_parallel_residual": m.flag("use_parallel_residual", default=True),
    }


def layer_norm(m: Metadata) -> Fields:
    """Of GPT-2 and BLOOM."""
    return {"layer_norm_epsilon": m.real("attention.layer_norm_epsilon")}


def falcon(m: Metadata) -> Fields:
    """7B has one kv head and one norm; 40B and 180B have several, and two norms, which 11B has not."""
    if has(m, "attn_qkv.bias"):
        raise _untold(m, "a Falcon with biases, whose ALiBi the format does not tell", "a Falcon of 7B, 11B, 40B, 180B")
    single, two = m.integer("attention.head_count_kv", default=1) == 1, has(m, "attn_norm_2.weight")
    older = {"multi_query": True, "new_decoder_architecture": False}
    newer = {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 2 if two else 1}
    return layer_norm(m) | (older if single and not two else newer)


def mpt(m: Metadata) -> Fields:
    """ALiBi's largest slope, and what projections are clipped to."""
    largest, clip = m.real("attention.max_alibi_bias", default=8.0), m.real("attention.clamp_kqv", default=0.0)
    inside = {"alibi": largest > 0, "alibi_bias_max": int(largest) or None, "clip_qkv": clip or None}
    return layer_norm(m) | {"attn_config": inside}


def cohere(m: Metadata) -> Fields:
    """LayerNorm, the scale of logits, norms of queries and keys."""
    return {
        "layer_norm_eps": m.real("attention.layer_norm_epsilon"),
        "logit_scale": m.real("logit_scale"),
        "use_qk_norm": has(m, "attn_q_norm.weight"),
    }


def cohere2(m: Metadata) -> Fields:
    """Cohere with windows."""
    return cohere(m) | {"sliding_window": m.size(WINDOW)}


def glm4(m: Metadata) -> Fields:
    """Biases of q, k and v."""
    return rms(m) | {"attention_bias": has(m, "attn_q.bias")}


def experts(m: Metadata, count: str = "num_experts") -> Fields:
    """Their counts."""
    return rms(m) | {count: m.size("expert_count"), "num_experts_per_tok": m.size("expert_used_count")}


def mixtral(m: Metadata) -> Fields:
    """Counts of experts, a window or none."""
    return experts(m, "num_local_experts") | {"sliding_window": m.integer(WINDOW, default=0) or None}


def qwen3_moe(m: Metadata) -> Fields:
    """Shares of Qwen 3's experts are always normalized in llama.cpp."""
    return experts(m) | {"moe_intermediate_size": m.size("expert_feed_forward_length"), "norm_topk_prob": True}


def qwen2_moe(m: Metadata) -> Fields:
    """Counts of experts, and the size of the shared one."""
    return experts(m) | {
        "moe_intermediate_size": m.size("expert_feed_forward_length"),
        "shared_expert_intermediate_size": m.size("expert_shared_feed_forward_length"),
        "qkv_bias": has(m, "attn_q.bias"),
    }


def minimax_m2(m: Metadata) -> Fields:
    """Counts of experts, whose size is in a key of its own."""
    return experts(m, "num_local_experts") | {
        "intermediate_size": m.size("expert_feed_forward_length"),
        "rotary_dim": m.size("rope.dimension_count"),
    }


def ernie4_5_moe(m: Metadata) -> Fields:
    """Which layers have experts, and their counts."""
    return rms(m) | {
        "moe_num_experts": m.size("expert_count"),
        "moe_k": m.size("expert_used_count"),
        "moe_intermediate_size": m.size("expert_feed_forward_length"),
        "moe_num_shared_experts": m.integer("expert_shared_count", default=0),
        "moe_layer_start_index": m.integer("leading_dense_block_count", default=0),
        "moe_layer_interval": m.size("interleave_moe_layer_step", default=1),
    }


def gpt_oss(m: Metadata) -> Fields:
    """OpenAI's yarn does not round the ends of its ramp, which llama.cpp does and the format does not tell."""
    scaling = {
        "rope_type": "yarn",
        "factor": m.real(f"{SCALING}factor"),
        "original_max_position_embeddings": m.size(f"{SCALING}original_context_length"),
        "beta_fast": m.real(f"{SCALING}yarn_beta_fast", default=32.0),
        "beta_slow": m.real(f"{SCALING}yarn_beta_slow", default=1.0),
        "truncate": False,
    }
    return experts(m, "num_local_experts") | {
        "attention_bias": has(m, "attn_q.bias"),
        "intermediate_size": m.size("expert_feed_forward_length"),
        "rope_scaling": scaling,
        "sliding_window": m.size(WINDOW),
    }


def routed(m: Metadata) -> Fields:
    """Of DeepSeek's mixtures. A file that says nothing of groups has one, as in llama.cpp."""
    return {
        "first_k_dense_replace": m.integer("leading_dense_block_count", default=0),
        "moe_intermediate_size": m.size("expert_feed_forward_length"),
        "n_group": m.size("expert_group_count", default=1),
        "n_routed_experts": m.size("expert_count"),
        "n_shared_experts": m.size("expert_shared_count"),
        "norm_topk_prob": m.flag("expert_weights_norm", default=False),
        "num_experts_per_tok": m.size("expert_used_count"),
        "routed_scaling_factor": m.real("expert_weights_scale", default=1.0),
        "topk_group": m.size("expert_group_used_count", default=1),
    }


def glm4_moe(m: Metadata) -> Fields:
    """GLM-4.5, whose routing is DeepSeek-V3's."""
    return rms(m) | routed(m) | {"attention_bias": has(m, "attn_q.bias"), "use_qk_norm": has(m, "attn_q_norm.weight")}


def deepseek2(m: Metadata) -> Fields:
    """DeepSeek-V2, or V3 if scores are sigmoids (GLM-4.7-Flash is one); older files have heads of full size.

    Files that do not say which (GLM-4.7-Flash's) show it by biases of routers, which V2 has not.
    """
    biased = any(name.endswith(".exp_probs_b.bias") for name in m.file.tensors)
    default = ExpertGatingFuncType.SIGMOID if biased else ExpertGatingFuncType.SOFTMAX
    sigmoid = m.integer("expert_gating_func", default=default) == ExpertGatingFuncType.SIGMOID
    rotated, latent = m.size("rope.dimension_count"), m.size("attention.kv_lora_rank")
    end = "_mla" if "attention.key_length_mla" in m else ""
    fields = rms(m) | {
        "architectures": ["DeepseekV3ForCausalLM" if sigmoid else "DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v3" if sigmoid else "deepseek_v2",
        "kv_lora_rank": latent,
        "q_lora_rank": m.size("attention.q_lora_rank") if "attention.q_lora_rank" in m else None,
        "qk_nope_head_dim": m.size(f"attention.key_length{end}") - rotated,
        "qk_rope_head_dim": rotated,
        "rope_scaling": _latent_yarn(m),
        "v_head_dim": m.size(f"attention.value_length{end}"),
    }
    if "expert_count" in m:
        limited = m.size("expert_group_count", default=1) > 1
        method = {} if sigmoid else {"topk_method": "group_limited_greedy" if limited else "greedy"}
        return fields | routed(m) | method
    return fields | {"first_k_dense_replace": m.size("block_count")}


def _latent_yarn(m: Metadata) -> Fields | None:
    """The multiplier is a tenth of `mscale_all_dim`; llama.cpp takes `mscale` to be equal, as it is as published."""
    if m.text(f"{SCALING}type", default="none") != "yarn":
        return None
    mscale = float(f"{m.real(f'{SCALING}yarn_log_multiplier') * 10:.6g}")
    return {
        "rope_type": "yarn",
        "factor": m.real(f"{SCALING}factor"),
        "original_max_position_embeddings": m.size(f"{SCALING}original_context_length"),
        "beta_fast": m.real(f"{SCALING}yarn_beta_fast", default=32.0),
        "beta_slow": m.real(f"{SCALING}yarn_beta_slow", default=1.0),
        "mscale": mscale,
        "mscale_all_dim": mscale,
    }


def _untold(m: Metadata, what: str, expected: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{m.file.path} is {what}",
        expected=expected,
        found=f"other keys or tensors of {m.prefix.rstrip('.')}",
        fix="use the model's safetensors checkpoint if its architecture is supported there: `warploom models`",
    )
