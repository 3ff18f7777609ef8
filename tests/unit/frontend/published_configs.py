"""config.json of well-known models as transformers 4 wrote them: RoPE at the top level, old fields."""

from __future__ import annotations

from typing import Any

V4: dict[str, Any] = {"torch_dtype": "bfloat16", "transformers_version": "4.45.0", "use_cache": True}
LLAMA: dict[str, Any] = {
    **V4,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def sizes(vocab: int, hidden: int, middle: int, layers: int, heads: int, kv_heads: int, context: int) -> dict[str, Any]:
    """The sizes under their usual names."""
    return {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": middle,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": context,
    }


def without(config: dict[str, Any], *names: str) -> dict[str, Any]:
    """A config that does not state some fields."""
    return {k: v for k, v in config.items() if k not in names}


def of(architecture: str, model_type: str, *parts: dict[str, Any]) -> dict[str, Any]:
    """The config of an architecture."""
    config: dict[str, Any] = {"architectures": [architecture], "model_type": model_type}
    for part in parts:
        config |= part
    return config


LLAMA3_SCALING = {
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
DEEPSEEK: dict[str, Any] = {
    "aux_loss_alpha": 0.001,
    "ep_size": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 512,
    "moe_layer_freq": 1,
    "norm_topk_prob": False,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "seq_aux": True,
    "v_head_dim": 128,
}
DEEPSEEK_YARN: dict[str, Any] = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "type": "yarn",
}
QWEN: dict[str, Any] = {"use_sliding_window": False, "max_window_layers": 28, "rope_theta": 1e6}
QWEN_EXPERTS: dict[str, Any] = {
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "output_router_logits": False,
    "router_aux_loss_coef": 0.001,
}
GEMMA: dict[str, Any] = {
    **V4,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": 1,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "initializer_range": 0.02,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
}
LONG = {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [1.08] * 48}
NEOX: dict[str, Any] = {
    **V4,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu",
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-5,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
}
FALCON: dict[str, Any] = {
    **V4,
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoModelForCausalLM": "modeling_falcon.FalconForCausalLM"},
    "bias": False,
    "bos_token_id": 11,
    "eos_token_id": 11,
    "hidden_dropout": 0.0,
    "hidden_size": 4544,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-5,
    "multi_query": True,
    "new_decoder_architecture": False,
    "num_attention_heads": 71,
    "num_hidden_layers": 32,
    "parallel_attn": True,
    "vocab_size": 65024,
}
GPT2: dict[str, Any] = {
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-5,
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}
BLOOM: dict[str, Any] = {
    **V4,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_dropout": 0.0,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-5,
    "masked_softmax_fusion": True,
    "n_embed": 1024,
    "n_inner": None,
    "n_layer": 24,
    "num_attention_heads": 16,
    "offset_alibi": 100,
    "pad_token_id": 3,
    "pretraining_tp": 1,
    "skip_bias_add": True,
    "skip_bias_add_qkv": False,
    "slow_but_exact": False,
    "unk_token_id": 0,
    "vocab_size": 250880,
}
MPT: dict[str, Any] = {
    **V4,
    "attn_config": {
        "alibi": True,
        "alibi_bias_max": 8,
        "attn_impl": "torch",
        "attn_pdrop": 0,
        "attn_type": "multihead_attention",
        "attn_uses_sequence_id": False,
        "clip_qkv": None,
        "prefix_lm": False,
        "qk_ln": False,
        "softmax_scale": None,
    },
    "auto_map": {"AutoModelForCausalLM": "modeling_mpt.MPTForCausalLM"},
    "d_model": 4096,
    "emb_pdrop": 0,
    "embedding_fraction": 1.0,
    "expansion_ratio": 4,
    "init_config": {"name": "kaiming_normal_"},
    "init_device": "cpu",
    "learned_pos_emb": True,
    "logit_scale": None,
    "max_seq_len": 2048,
    "n_heads": 32,
    "n_layers": 32,
    "no_bias": True,
    "norm_type": "low_precision_layernorm",
    "resid_pdrop": 0,
    "tokenizer_name": "EleutherAI/gpt-neox-20b",
    "verbose": 0,
    "vocab_size": 50432,
}
COHERE = without(LLAMA, "rms_norm_eps", "tie_word_embeddings") | {"layer_norm_eps": 1e-5, "logit_scale": 0.0625}
GLM = {"attention_bias": True, "head_dim": 128, "partial_rotary_factor": 0.5, "rms_norm_eps": 1.5625e-7}
MULTIPLIERS = {
    "attention_multiplier": 0.0078125,
    "embedding_multiplier": 12.0,
    "logits_scaling": 16.0,
    "mlp_bias": False,
    "residual_multiplier": 0.22,
}

PUBLISHED: dict[str, dict[str, Any]] = {
    "Llama-3.2-1B": of(
        "LlamaForCausalLM", "llama", LLAMA, sizes(128256, 2048, 8192, 16, 32, 8, 131072),
        {"head_dim": 64, "mlp_bias": False, "pretraining_tp": 1, "rope_scaling": LLAMA3_SCALING, "rope_theta": 500000.0,
         "tie_word_embeddings": True},
    ),
    "Mistral-7B-v0.1": of(
        "MistralForCausalLM", "mistral", without(LLAMA, "attention_bias", "rope_scaling"),
        sizes(32000, 4096, 14336, 32, 32, 8, 32768), {"sliding_window": 4096},
    ),
    "Mistral-7B-v0.3": of(
        "MistralForCausalLM", "mistral", LLAMA, sizes(32768, 4096, 14336, 32, 32, 8, 32768), {"sliding_window": None},
        {"attention_bias": None},
    ),
    "Mistral-Small-3.1-24B": of(
        "Mistral3ForConditionalGeneration", "mistral3",
        {"image_token_index": 10, "multimodal_projector_bias": False, "projector_hidden_act": "gelu",
         "spatial_merge_size": 2, "torch_dtype": "bfloat16", "vision_feature_layer": -1,
         "text_config": without(LLAMA, "attention_bias", "bos_token_id", "eos_token_id", "rope_scaling",
                                "tie_word_embeddings")
         | sizes(131072, 5120, 32768, 40, 32, 8, 131072)
         | {"head_dim": 128, "model_type": "mistral", "rope_theta": 1e9, "sliding_window": None},
         "vision_config": {"head_dim": 64, "hidden_act": "silu", "hidden_size": 1024, "image_size": 1540,
                           "intermediate_size": 4096, "model_type": "pixtral", "num_attention_heads": 16,
                           "num_channels": 3, "num_hidden_layers": 24, "patch_size": 14, "rope_theta": 10000.0}},
    ),
    "Qwen2.5-7B": of("Qwen2ForCausalLM", "qwen2", without(LLAMA, "attention_bias"),
                     sizes(152064, 3584, 18944, 28, 28, 4, 131072), QWEN, {"sliding_window": 131072}),
    "Qwen3-8B": of("Qwen3ForCausalLM", "qwen3", LLAMA, sizes(151936, 4096, 12288, 36, 32, 8, 40960), QWEN,
                   {"head_dim": 128, "sliding_window": None, "max_window_layers": 36}),
    "SmolLM3-3B": of(
        "SmolLM3ForCausalLM", "smollm3", without(LLAMA, "tie_word_embeddings"),
        sizes(128256, 2048, 11008, 36, 16, 4, 65536),
        {"mlp_bias": False, "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9, "rope_theta": 5e6,
         "layer_types": ["full_attention"] * 36, "sliding_window": None, "use_sliding_window": False,
         "max_window_layers": 28, "pretraining_tp": 2},
    ),
    "gemma-2-9b": of(
        "Gemma2ForCausalLM", "gemma2", GEMMA, sizes(256000, 3584, 14336, 42, 16, 8, 8192),
        {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "hidden_act": "gelu_pytorch_tanh",
         "rope_theta": 10000.0, "sliding_window": 4096, "sliding_window_size": 4096},
    ),
    "gemma-3-1b": of(
        "Gemma3ForCausalLM", "gemma3_text", GEMMA, sizes(262144, 1152, 6912, 26, 4, 1, 32768),
        {"attn_logit_softcapping": None, "final_logit_softcapping": None, "rope_local_base_freq": 10000,
         "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6},
    ),
    "gemma-3-4b": of(
        "Gemma3ForConditionalGeneration", "gemma3",
        {"boi_token_index": 255999, "eoi_token_index": 256000, "eos_token_id": [1, 106], "image_token_index": 262144,
         "initializer_range": 0.02, "mm_tokens_per_image": 256, "torch_dtype": "bfloat16",
         "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                         "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                         "sliding_window": 1024},
         "vision_config": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304, "patch_size": 14,
                           "model_type": "siglip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 27}},
    ),
    "Phi-3.5-mini": of(
        "Phi3ForCausalLM", "phi3", LLAMA, sizes(32064, 3072, 8192, 32, 32, 32, 131072),
        {"auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
         "original_max_position_embeddings": 4096, "rope_scaling": LONG, "sliding_window": 262144},
    ),
    "Phi-4-mini": of(
        "Phi3ForCausalLM", "phi3", LLAMA, sizes(200064, 3072, 8192, 32, 24, 8, 131072),
        {"embd_pdrop": 0.0, "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False,
         "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75, "resid_pdrop": 0.0,
         "rope_scaling": LONG, "sliding_window": 262144, "tie_word_embeddings": True},
    ),
    "granite-3.3-8b": of(
        "GraniteForCausalLM", "granite", LLAMA, sizes(49159, 4096, 12800, 40, 32, 8, 131072), MULTIPLIERS,
        {"rope_theta": 10000000.0, "tie_word_embeddings": True},
    ),
    "granite-3.1-1b-a400m": of(
        "GraniteMoeForCausalLM", "granitemoe", LLAMA, sizes(49155, 1024, 512, 24, 16, 8, 131072),
        without(MULTIPLIERS, "mlp_bias"),
        {"num_experts_per_tok": 8, "num_local_experts": 32, "output_router_logits": False, "rope_theta": 1500000.0,
         "router_aux_loss_coef": 0.0, "tie_word_embeddings": True},
    ),
    "GLM-4.5": of(
        "Glm4MoeForCausalLM", "glm4_moe", LLAMA, sizes(151552, 5120, 12288, 92, 96, 8, 131072),
        {"attention_bias": True, "first_k_dense_replace": 3, "head_dim": 128, "moe_intermediate_size": 1536,
         "n_group": 1, "n_routed_experts": 160, "n_shared_experts": 1, "norm_topk_prob": True,
         "num_experts_per_tok": 8, "num_nextn_predict_layers": 1, "partial_rotary_factor": 0.5,
         "rope_theta": 1000000, "routed_scaling_factor": 2.5, "topk_group": 1, "use_qk_norm": True},
    ),
    "GLM-4.7-Flash": of(
        "Glm4MoeLiteForCausalLM", "glm4_moe_lite", without(LLAMA, "rope_theta"),
        sizes(154880, 2048, 10240, 47, 20, 20, 202752), without(DEEPSEEK, "scoring_func", "aux_loss_alpha", "seq_aux"),
        {"first_k_dense_replace": 1, "moe_intermediate_size": 1536, "n_group": 1, "n_routed_experts": 64,
         "n_shared_experts": 1, "norm_topk_prob": True, "num_experts_per_tok": 4, "num_nextn_predict_layers": 1,
         "partial_rotary_factor": 1.0, "q_lora_rank": 768, "qk_nope_head_dim": 192, "routed_scaling_factor": 1.8,
         "rope_theta": 1000000, "topk_group": 1, "topk_method": "noaux_tc", "v_head_dim": 256},
    ),
    "MiniMax-M2": of(
        "MiniMaxM2ForCausalLM", "minimax_m2", without(LLAMA, "attention_bias", "rope_scaling"),
        sizes(200064, 3072, 1536, 62, 48, 8, 196608),
        {"attn_type_list": [1] * 62, "head_dim": 128, "layernorm_full_attention_beta": 1.0,
         "layernorm_linear_attention_beta": 1.0, "layernorm_mlp_beta": 1.0, "mlp_intermediate_size": 8192,
         "mtp_transformer_layers": 1, "num_experts_per_tok": 8, "num_local_experts": 256, "num_mtp_modules": 3,
         "output_router_logits": False, "qk_norm_type": "per_layer", "rms_norm_eps": 1e-6, "rope_theta": 5000000,
         "rotary_dim": 64, "router_aux_loss_coef": 0.001, "router_jitter_noise": 0.0, "scoring_func": "sigmoid",
         "shared_intermediate_size": 0, "shared_moe_mode": "sigmoid", "sliding_window": None, "use_mtp": True,
         "use_qk_norm": True, "use_routing_bias": True,
         "quantization_config": {"activation_scheme": "dynamic", "fmt": "float8_e4m3fn", "quant_method": "fp8",
                                 "weight_block_size": [128, 128]}},
    ),
    "ERNIE-4.5-0.3B": of(
        "Ernie4_5ForCausalLM", "ernie4_5", without(LLAMA, "attention_bias", "attention_dropout"),
        sizes(103424, 1024, 3072, 18, 16, 2, 131072),
        {"compression_ratio": 1.0, "head_dim": 128, "rope_theta": 500000, "tie_word_embeddings": True,
         "use_bias": False},
    ),
    "ERNIE-4.5-21B-A3B": of(
        "Ernie4_5_MoeForCausalLM", "ernie4_5_moe", without(LLAMA, "attention_bias", "attention_dropout"),
        sizes(103424, 2560, 12288, 28, 20, 4, 131072),
        {"moe_capacity": [64, 64, 64], "moe_gate": "topk", "moe_intermediate_size": 1536, "moe_k": 6,
         "moe_layer_interval": 1, "moe_layer_start_index": 1, "moe_num_experts": 64, "moe_num_shared_experts": 2,
         "moe_use_aux_free": True, "num_nextn_predict_layers": 1, "rope_theta": 500000, "tie_word_embeddings": True,
         "use_bias": False},
    ),
    "bloom-560m": of("BloomForCausalLM", "bloom", BLOOM),
    "mpt-7b": of("MPTForCausalLM", "mpt", MPT),
    "Mixtral-8x7B-v0.1": of(
        "MixtralForCausalLM", "mixtral", without(LLAMA, "attention_bias", "rope_scaling"),
        sizes(32000, 4096, 14336, 32, 32, 8, 32768), {"sliding_window": None, "rope_theta": 1e6},
        {"num_experts_per_tok": 2, "num_local_experts": 8, "output_router_logits": False, "router_aux_loss_coef": 0.02},
    ),
    "Qwen3-30B-A3B": of(
        "Qwen3MoeForCausalLM", "qwen3_moe", LLAMA, sizes(151936, 2048, 6144, 48, 32, 4, 40960), QWEN, QWEN_EXPERTS,
        {"head_dim": 128, "max_window_layers": 48, "moe_intermediate_size": 768, "num_experts": 128,
         "num_experts_per_tok": 8, "norm_topk_prob": True, "sliding_window": None},
    ),
    "Qwen1.5-MoE-A2.7B": of(
        "Qwen2MoeForCausalLM", "qwen2_moe", without(LLAMA, "attention_bias"),
        sizes(151936, 2048, 5632, 24, 16, 16, 8192), QWEN, QWEN_EXPERTS,
        {"max_window_layers": 21, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632,
         "num_experts": 60, "num_experts_per_tok": 4, "norm_topk_prob": False, "sliding_window": 32768},
    ),
    "OLMoE-1B-7B-0924": of(
        "OlmoeForCausalLM", "olmoe", LLAMA, sizes(50304, 2048, 1024, 16, 16, 16, 4096),
        {"clip_qkv": None, "norm_topk_prob": False, "num_experts": 64, "num_experts_per_tok": 8},
        {"output_router_logits": False, "router_aux_loss_coef": 0.01},
    ),
    "DeepSeek-V2-Lite": of(
        "DeepseekV2ForCausalLM", "deepseek_v2", LLAMA, sizes(102400, 2048, 10944, 27, 16, 16, 163840), DEEPSEEK,
        {"moe_intermediate_size": 1408, "n_group": 1, "n_routed_experts": 64, "n_shared_experts": 2,
         "num_experts_per_tok": 6, "q_lora_rank": None, "rms_norm_eps": 1e-6, "topk_group": 1, "topk_method": "greedy",
         "rope_scaling": DEEPSEEK_YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}},
    ),
    "DeepSeek-V2": of(
        "DeepseekV2ForCausalLM", "deepseek_v2", LLAMA, sizes(102400, 5120, 12288, 60, 128, 128, 163840), DEEPSEEK,
        {"moe_intermediate_size": 1536, "n_group": 8, "n_routed_experts": 160, "n_shared_experts": 2,
         "num_experts_per_tok": 6, "q_lora_rank": 1536, "rms_norm_eps": 1e-6, "routed_scaling_factor": 16.0,
         "topk_group": 3, "topk_method": "group_limited_greedy",
         "rope_scaling": DEEPSEEK_YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}},
    ),
    "DeepSeek-V3": of(
        "DeepseekV3ForCausalLM", "deepseek_v3", LLAMA, sizes(129280, 7168, 18432, 61, 128, 128, 163840), DEEPSEEK,
        {"first_k_dense_replace": 3, "moe_intermediate_size": 2048, "n_group": 8, "n_routed_experts": 256,
         "n_shared_experts": 1, "norm_topk_prob": True, "num_experts_per_tok": 8, "num_nextn_predict_layers": 1,
         "q_lora_rank": 1536, "rms_norm_eps": 1e-6, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
         "topk_group": 4, "topk_method": "noaux_tc",
         "rope_scaling": DEEPSEEK_YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
         "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                                 "weight_block_size": [128, 128]}},
    ),
    "gpt-oss-20b": of(
        "GptOssForCausalLM", "gpt_oss", without(LLAMA, "bos_token_id"), sizes(201088, 2880, 2880, 24, 64, 8, 131072),
        {"attention_bias": True, "experts_per_token": 4, "head_dim": 64, "initial_context_length": 4096,
         "layer_types": ["sliding_attention", "full_attention"] * 12, "num_experts_per_tok": 4, "num_local_experts": 32,
         "output_router_logits": False, "rope_theta": 150000, "router_aux_loss_coef": 0.9, "sliding_window": 128,
         "swiglu_limit": 7.0, "quantization_config": {"quant_method": "mxfp4"},
         "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "rope_type": "yarn", "truncate": False,
                          "original_max_position_embeddings": 4096}},
    ),
    "OLMo-2-7B": of("Olmo2ForCausalLM", "olmo2", LLAMA, sizes(100352, 4096, 11008, 32, 32, 32, 4096),
                    {"rope_theta": 500000}),
    "Olmo-3-7B": of(
        "Olmo3ForCausalLM", "olmo3", LLAMA, sizes(100278, 4096, 11008, 32, 32, 32, 65536),
        {"layer_types": [*["sliding_attention"] * 3, "full_attention"] * 8, "rope_theta": 500000,
         "sliding_window": 4096,
         "rope_scaling": {"attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0,
                          "original_max_position_embeddings": 8192, "rope_type": "yarn"}},
    ),
    "EXAONE-4.0-32B": of(
        "Exaone4ForCausalLM", "exaone4", without(LLAMA, "attention_bias"),
        sizes(102400, 5120, 27392, 64, 40, 8, 131072),
        {"head_dim": 128, "sliding_window": 4096, "sliding_window_pattern": "LLLG", "rope_scaling": LLAMA3_SCALING,
         "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 16},
    ),
    "Seed-OSS-36B": of(
        "SeedOssForCausalLM", "seed_oss", LLAMA, sizes(155136, 5120, 27648, 64, 80, 8, 524288),
        {"attention_bias": True, "attention_out_bias": False, "head_dim": 128, "mlp_bias": False,
         "residual_dropout": 0.1, "rope_scaling": {"rope_type": "default"}, "pad_token_id": 1},
    ),
    "starcoder2-3b": of(
        "Starcoder2ForCausalLM", "starcoder2", without(LLAMA, "rms_norm_eps", "attention_bias", "tie_word_embeddings"),
        sizes(49152, 3072, 12288, 30, 24, 2, 16384),
        {"activation_function": "gelu", "hidden_act": "gelu_pytorch_tanh", "embedding_dropout": 0.1,
         "residual_dropout": 0.1, "layer_norm_epsilon": 1e-5, "mlp_type": "default", "norm_epsilon": 1e-5,
         "norm_type": "layer_norm", "rope_theta": 999999.4, "sliding_window": 4096, "use_bias": True},
    ),
    "gpt2": of("GPT2LMHeadModel", "gpt2", GPT2),
    "pythia-160m": of(
        "GPTNeoXForCausalLM", "gpt_neox", NEOX,
        without(sizes(50304, 768, 3072, 12, 12, 12, 2048), "num_key_value_heads"),
    ),
    "falcon-7b": of("FalconForCausalLM", "falcon", FALCON),
    "falcon-40b": of(
        "FalconForCausalLM", "falcon", FALCON,
        {"new_decoder_architecture": True, "num_kv_heads": 8, "num_attention_heads": 128, "hidden_size": 8192},
    ),
    "stablelm-2-1_6b": of(
        "StableLmForCausalLM", "stablelm", without(LLAMA, "rms_norm_eps", "attention_bias", "rope_scaling"),
        sizes(100352, 2048, 5632, 24, 32, 32, 4096),
        {"hidden_dropout": 0.0, "layer_norm_eps": 1e-5, "partial_rotary_factor": 0.25, "use_qkv_bias": True,
         "qk_layernorm": False, "use_parallel_residual": False},
    ),
    "command-r": of("CohereForCausalLM", "cohere", COHERE, sizes(256000, 8192, 22528, 40, 64, 64, 8192),
                    {"model_max_length": 131072, "rope_theta": 8e6, "use_qk_norm": False, "pad_token_id": 0}),
    "command-r7b": of(
        "Cohere2ForCausalLM", "cohere2", COHERE, sizes(256000, 4096, 14336, 32, 32, 8, 8192),
        {"head_dim": 128, "layer_switch": 4, "order_of_interleaved_layers": "local_attn_first", "rotary_pct": 1.0,
         "position_embedding_type": "rope_gptj", "sliding_window": 4096, "sliding_window_pattern": 4,
         "use_embedding_sharing": True, "use_gated_activation": True, "use_parallel_block": True,
         "use_parallel_embedding": True, "rope_theta": 50000, "cache_implementation": "hybrid"},
    ),
    "glm-4-9b-hf": of("GlmForCausalLM", "glm", LLAMA, sizes(151552, 4096, 13696, 40, 32, 2, 131072), GLM),
    "GLM-4-9B-0414": of("Glm4ForCausalLM", "glm4", LLAMA, sizes(151552, 4096, 13696, 40, 32, 2, 32768), GLM),
    "Nemotron-Mini-4B": of(
        "NemotronForCausalLM", "nemotron", without(LLAMA, "rms_norm_eps", "rope_scaling"),
        sizes(256000, 3072, 9216, 32, 24, 8, 4096),
        {"head_dim": 128, "hidden_act": "relu2", "mlp_bias": False, "norm_eps": 1e-5, "partial_rotary_factor": 0.5},
    ),
}  # fmt: skip
