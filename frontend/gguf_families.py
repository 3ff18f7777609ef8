"""How llama.cpp's converter writes each family: names, and changed weights.

Facts from llama.cpp (`conversion/*.py`). Names of tensors come from the `gguf` package's own table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

import gguf

from warploom.errors import UnsupportedModelError
from warploom.frontend import gguf_fields as fields
from warploom.frontend.gguf_fields import Fields
from warploom.frontend.gguf_file import GGUFFile
from warploom.frontend.gguf_metadata import Metadata
from warploom.frontend.gguf_modules import (
    ATTENTION,
    BLOCK_SPARSE,
    BLOCK_SPARSE_BIASES,
    COHERE,
    DENSE_AND_SHARED,
    ERNIE_BIASES,
    EXPERTS,
    FALCON,
    GATED,
    GEMMA,
    GPT2,
    GPT2_WEIGHTS,
    GPT_OSS,
    GRANITE_EXPERTS,
    HEAD,
    KEYS_AND_VALUES,
    LATENT,
    LLAMA,
    MODEL,
    NEOX,
    POST,
    PROJECTIONS,
    QK_NORMS,
    ROUTER_BIASES,
    SHARED,
    SPARSE,
)
from warploom.frontend.gguf_restore import Join

LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class GGUFFamily:
    """A value of `general.architecture`.

    Attributes:
        architectures: in Hugging Face's config, the first unless `fields` says otherwise.
        model_type: likewise.
        modules: of a layer, in Hugging Face's names, or those that the converter gives what it cuts.
        fields: the config's fields beyond the usual sizes and RoPE.
        spelling: names of the usual fields in this config, which has no others; empty: all have their usual ones.
        permuted: rows of q and k are reordered from halves to neighbours within each head.
        separated: rows of a projection of q, k and v, which stand head by head, are reordered to all q, all k, all v.
        joins: tensors that are stored in another form.
        norm_offset: what was added to the weights of norms.
        partial: a part of a head may be rotated.
        latent: heads attend latents, whose sizes are in keys of their own.
        layers: the module that holds the layers.
        model: the other modules.
        prefix: what the names of modules begin with, but for the head's, where the `gguf` package leaves it out.
        other: what files hold instead whose first layer has a tensor of this name.
    """

    architectures: tuple[str, ...]
    model_type: str
    modules: tuple[str, ...]
    fields: Callable[[Metadata], Fields]
    spelling: tuple[tuple[str, str], ...] = ()
    permuted: bool = False
    separated: bool = False
    joins: tuple[Join, ...] = ()
    norm_offset: float = 0.0
    partial: bool = False
    latent: bool = False
    layers: str = "model.layers"
    model: tuple[str, ...] = MODEL
    prefix: str = ""
    other: tuple[str, GGUFFamily] | None = None

    @property
    def has_experts(self) -> bool:
        """Whether its layers hold experts, those of a layer stacked in one tensor."""
        return any(".experts." in module for module in self.modules)


@dataclass(frozen=True)
class Counts:
    """Of layers, without those that predict further tokens; of heads."""

    layers: int
    heads: int
    kv_heads: int

    @classmethod
    def of(cls, keys: Metadata) -> Counts:
        """Those of a file; CheckpointError if it has fewer layers than it says."""
        layers, heads = keys.size("block_count"), keys.size("attention.head_count")
        present = {layer[1] for name in keys.file.tensors if (layer := LAYER.match(name))}
        if layers > len(present):
            raise keys.unusable("block_count", f"at most {len(present)}, the layers that have tensors", layers)
        further = keys.integer("nextn_predict_layers", default=0)
        return cls(layers - further, heads, keys.size("attention.head_count_kv", default=heads))


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
    if family.other is not None and f"blk.0.{family.other[0]}" in file.tensors:
        return name, family.other[1]
    return name, family


@cache
def hf_modules(name: str, family: GGUFFamily, num_layers: int) -> Mapping[str, str]:
    """Hugging Face's module by GGUF's, of a whole model; experts without their index."""
    (arch,) = (arch for arch, text in gguf.MODEL_ARCH_NAMES.items() if text == name)
    names = gguf.get_tensor_name_map(arch, num_layers)
    layers = (f"{family.layers}.{i}.{module}" for i in range(num_layers) for module in family.modules)
    found = {module: names.get_name(module) for module in (*family.model, *layers)}
    return {stored: f"{family.prefix * (module != HEAD)}{module}" for module, stored in found.items() if stored}


_LLAMA = GGUFFamily(
    ("LlamaForCausalLM", "MistralForCausalLM"),
    "llama",
    LLAMA,
    fields.llama,
    permuted=True,
    other=(
        "ffn_gate_inp.weight",
        GGUFFamily(("MixtralForCausalLM",), "mixtral", BLOCK_SPARSE, fields.mixtral, permuted=True),
    ),
)
_FALCON = GGUFFamily(
    ("FalconForCausalLM",),
    "falcon",
    FALCON,
    fields.falcon,
    spelling=(
        *((name, name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "rope_theta")),
        *(("num_key_value_heads", "num_kv_heads"), ("intermediate_size", "ffn_hidden_size")),
        ("max_position_embeddings", "max_position_embeddings"),
    ),
    separated=True,
    layers="transformer.h",
    model=("transformer.word_embeddings", "transformer.ln_f", HEAD),
)
_GRANITE_MODULES = ("block_sparse_moe.router.layer", *(f"block_sparse_moe.{m}" for m in ("experts.w1", "experts.w3")))

GGUF_FAMILIES: Mapping[str, GGUFFamily] = {
    "llama": _LLAMA,
    "qwen3moe": GGUFFamily(("Qwen3MoeForCausalLM",), "qwen3_moe", (*SPARSE, *QK_NORMS), fields.qwen3_moe),
    "qwen2moe": GGUFFamily(("Qwen2MoeForCausalLM",), "qwen2_moe", (*SPARSE, *SHARED), fields.qwen2_moe),
    "olmoe": GGUFFamily(("OlmoeForCausalLM",), "olmoe", (*SPARSE, *QK_NORMS), fields.experts),
    "gpt-oss": GGUFFamily(
        ("GptOssForCausalLM",),
        "gpt_oss",
        (*ATTENTION, "self_attn.sinks", "mlp.router", *EXPERTS),
        fields.gpt_oss,
        joins=GPT_OSS,
    ),
    "deepseek2": GGUFFamily(
        ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM"),
        "deepseek_v2",
        (*LATENT, *SPARSE, *DENSE_AND_SHARED, "mlp.gate.e_score_correction"),
        fields.deepseek2,
        joins=(KEYS_AND_VALUES, ROUTER_BIASES),
        latent=True,
    ),
    "glm4moe": GGUFFamily(
        ("Glm4MoeForCausalLM",),
        "glm4_moe",
        (*SPARSE, *DENSE_AND_SHARED, *QK_NORMS, "mlp.gate.e_score_correction"),
        fields.glm4_moe,
        joins=(ROUTER_BIASES,),
        partial=True,
    ),
    "minimax-m2": GGUFFamily(
        ("MiniMaxM2ForCausalLM",),
        "minimax_m2",
        (*BLOCK_SPARSE, *QK_NORMS, "block_sparse_moe.e_score_correction"),
        fields.minimax_m2,
        joins=(BLOCK_SPARSE_BIASES,),
        partial=True,
    ),
    "ernie4_5": GGUFFamily(("Ernie4_5ForCausalLM",), "ernie4_5", LLAMA, fields.rms),
    "ernie4_5-moe": GGUFFamily(
        ("Ernie4_5_MoeForCausalLM",),
        "ernie4_5_moe",
        (*SPARSE, *DENSE_AND_SHARED, "mlp.moe_statics.e_score_correction"),
        fields.ernie4_5_moe,
        joins=(ERNIE_BIASES,),
    ),
    "granitemoe": GGUFFamily(
        ("GraniteMoeForCausalLM",),
        "granitemoe",
        (*ATTENTION, *_GRANITE_MODULES, "block_sparse_moe.output_linear"),
        fields.granite_moe,
        joins=GRANITE_EXPERTS,
        permuted=True,
    ),
    "qwen2": GGUFFamily(("Qwen2ForCausalLM",), "qwen2", LLAMA, fields.rms),
    "qwen3": GGUFFamily(("Qwen3ForCausalLM",), "qwen3", (*LLAMA, *QK_NORMS), fields.rms),
    "gemma2": GGUFFamily(("Gemma2ForCausalLM",), "gemma2", GEMMA, partial(fields.gemma, huge=46), norm_offset=1.0),
    "gemma3": GGUFFamily(
        ("Gemma3ForCausalLM",), "gemma3_text", (*GEMMA, *QK_NORMS), partial(fields.gemma, huge=62), norm_offset=1.0
    ),
    "phi3": GGUFFamily(
        ("Phi3ForCausalLM",),
        "phi3",
        (
            *("input_layernorm", "self_attn.qkv_proj", "self_attn.o_proj", "post_attention_layernorm"),
            *("mlp.gate_up_proj", "mlp.down_proj"),
        ),
        fields.phi3,
        partial=True,
    ),
    "granite": GGUFFamily(("GraniteForCausalLM",), "granite", LLAMA, fields.granite, permuted=True),
    "smollm3": GGUFFamily(("SmolLM3ForCausalLM",), "smollm3", LLAMA, fields.rms, permuted=True),
    "seed_oss": GGUFFamily(("SeedOssForCausalLM",), "seed_oss", LLAMA, fields.seed_oss),
    "olmo2": GGUFFamily(
        ("Olmo2ForCausalLM", "Olmo3ForCausalLM"), "olmo2", (*PROJECTIONS, *QK_NORMS, *POST, *GATED), fields.olmo2
    ),
    "exaone4": GGUFFamily(("Exaone4ForCausalLM",), "exaone4", (*PROJECTIONS, *QK_NORMS, *POST, *GATED), fields.exaone4),
    "starcoder2": GGUFFamily(
        ("Starcoder2ForCausalLM",), "starcoder2", (*ATTENTION, "mlp.c_fc", "mlp.c_proj"), fields.starcoder2
    ),
    "nemotron": GGUFFamily(
        ("NemotronForCausalLM",),
        "nemotron",
        (*ATTENTION, "mlp.up_proj", "mlp.down_proj"),
        fields.nemotron,
        norm_offset=1.0,
        partial=True,
    ),
    "gptneox": GGUFFamily(
        ("GPTNeoXForCausalLM",),
        "gpt_neox",
        ("input_layernorm", "post_attention_layernorm", *NEOX),
        fields.neox,
        separated=True,
        partial=True,
        layers="gpt_neox.layers",
        model=("gpt_neox.embed_in", "gpt_neox.final_layer_norm", "embed_out"),
    ),
    "gpt2": GGUFFamily(
        ("GPT2LMHeadModel",),
        "gpt2",
        ("ln_1", "ln_2", *GPT2),
        fields.layer_norm,
        spelling=(
            *(("hidden_size", "n_embd"), ("intermediate_size", "n_inner"), ("num_hidden_layers", "n_layer")),
            *(("num_attention_heads", "n_head"), ("max_position_embeddings", "n_positions")),
        ),
        joins=GPT2_WEIGHTS,
        layers="transformer.h",
        model=("transformer.wte", "transformer.wpe", "transformer.ln_f", HEAD),
    ),
    "falcon": replace(
        _FALCON,
        modules=("input_layernorm", *FALCON),
        other=("attn_norm_2.weight", replace(_FALCON, modules=("ln_attn", "ln_mlp", *FALCON))),
    ),
    "bloom": GGUFFamily(
        ("BloomForCausalLM",),
        "bloom",
        ("input_layernorm", "post_attention_layernorm", *FALCON),
        fields.layer_norm,
        spelling=(
            *(("hidden_size", "hidden_size"), ("intermediate_size", "n_inner"), ("num_hidden_layers", "n_layer")),
            *(("num_attention_heads", "n_head"), ("max_position_embeddings", "seq_length")),
        ),
        separated=True,
        layers="h",
        model=("word_embeddings", "word_embeddings_layernorm", "ln_f", HEAD),
        prefix="transformer.",
    ),
    "mpt": GGUFFamily(
        ("MptForCausalLM", "MPTForCausalLM"),
        "mpt",
        ("norm_1", "norm_2", "attn.Wqkv", "attn.out_proj", "ffn.up_proj", "ffn.down_proj"),
        fields.mpt,
        spelling=(
            *(("hidden_size", "d_model"), ("num_hidden_layers", "n_layers")),
            *(("num_attention_heads", "n_heads"), ("max_position_embeddings", "max_seq_len")),
        ),
        layers="transformer.blocks",
        model=("transformer.wte", "transformer.norm_f", HEAD),
    ),
    "command-r": GGUFFamily(("CohereForCausalLM",), "cohere", (*COHERE, *QK_NORMS), fields.cohere),
    "cohere2": GGUFFamily(("Cohere2ForCausalLM",), "cohere2", COHERE, fields.cohere2),
    "stablelm": GGUFFamily(("StableLmForCausalLM",), "stablelm", LLAMA, fields.stablelm, partial=True),
    "glm4": GGUFFamily(
        ("Glm4ForCausalLM",),
        "glm4",
        (*ATTENTION, "post_self_attn_layernorm", "post_mlp_layernorm", "mlp.gate_up_proj", "mlp.down_proj"),
        fields.glm4,
        partial=True,
    ),
}
