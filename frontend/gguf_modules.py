"""Names of modules that families share, and the tensors that llama.cpp's converter stores in another form."""

from __future__ import annotations

from dataclasses import replace

from warploom.frontend.gguf_restore import BLOCKS, MXFP4, Join

PROJECTIONS = tuple(f"self_attn.{name}_proj" for name in "qkvo")
QK_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
GATED = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
ATTENTION = ("input_layernorm", *PROJECTIONS, "post_attention_layernorm")
LLAMA = (*ATTENTION, *GATED)
POST = ("post_attention_layernorm", "post_feedforward_layernorm")
GEMMA = (*LLAMA, "pre_feedforward_layernorm", "post_feedforward_layernorm")
COHERE = tuple(module for module in LLAMA if module != "post_attention_layernorm")
HEAD = "lm_head"
MODEL = ("model.embed_tokens", "model.norm", HEAD)
EXPERTS = tuple(f"mlp.experts.{name}_proj" for name in ("gate", "up", "down"))
SPARSE = (*ATTENTION, "mlp.gate", *EXPERTS)
SHARED = ("mlp.shared_expert_gate", *(f"mlp.shared_expert.{name}_proj" for name in ("gate", "up", "down")))
DENSE_AND_SHARED = (*GATED, *(f"mlp.shared_experts.{name}_proj" for name in ("gate", "up", "down")))
BLOCK_SPARSE = (
    *ATTENTION,
    "block_sparse_moe.gate",
    *(f"block_sparse_moe.experts.{name}" for name in ("w1", "w2", "w3")),
)
LATENT = tuple(
    f"self_attn.{name}"
    for name in (
        *("q_proj", "q_a_proj", "q_a_layernorm", "q_b_proj", "o_proj"),
        *("kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj", "k_b_proj", "v_b_proj"),
    )
)
FOURFOLD = ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
NEOX = ("attention.query_key_value", "attention.dense", *FOURFOLD)
FALCON = ("self_attention.query_key_value", "self_attention.dense", *FOURFOLD)
GPT2 = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def _biases(module: str) -> Join:
    """Of a router, which the converter gives a dot in place of the last underscore."""
    return Join((f"{module}.e_score_correction.bias",), f"{module}.e_score_correction_bias")


KEYS_AND_VALUES = Join(
    ("self_attn.k_b_proj.weight", "self_attn.v_b_proj.weight"), "self_attn.kv_b_proj.weight", heads=True
)
GPT_OSS = (
    Join(("self_attn.sinks.weight",), "self_attn.sinks"),
    *(
        Join(
            tuple(f"mlp.experts.{name}.{kind}" for name in names),
            f"mlp.experts.{target}",
            woven=True,
            transposed=kind == "weight",
            kept=MXFP4,
        )
        for names, stem in ((("gate_proj", "up_proj"), "gate_up_proj"), (("down_proj",), "down_proj"))
        for kind, target in (("weight", stem), ("bias", f"{stem}_bias"))
    ),
)
GRANITE_EXPERTS = tuple(
    Join(
        tuple(f"block_sparse_moe.{source}.weight" for source in sources),
        f"block_sparse_moe.{target}.weight",
        kept=BLOCKS,
    )
    for sources, target in ((("experts.w1", "experts.w3"), "input_linear"), (("output_linear",), "output_linear"))
)
GPT2_WEIGHTS = tuple(Join((f"{name}.weight",), f"{name}.weight", transposed=True, kept=BLOCKS) for name in GPT2)
ROUTER_BIASES = _biases("mlp.gate")
ERNIE_BIASES = replace(_biases("mlp.moe_statics"), added_axis=True)
BLOCK_SPARSE_BIASES = _biases("block_sparse_moe")
