"""What llama.cpp's converter writes of a tiny model, by the rules of its `conversion/*.py`, written anew."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from tests.model.families.case import VOCAB
from tests.unit.frontend.tiny_checkpoints import byte_level_tokens, interleave

Tensors = dict[str, NDArray[np.float32]]
Config = dict[str, Any]
SIZES = {
    "block_count": ("num_hidden_layers", "n_layer", "n_layers"),
    "context_length": ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len"),
    "embedding_length": ("hidden_size", "n_embd", "d_model"),
    "attention.head_count": ("num_attention_heads", "n_head", "n_heads"),
}
NORM_KEYS = ("rms_norm_eps", "layer_norm_eps", "norm_eps", "norm_epsilon", "layer_norm_epsilon")
PERMUTED = ("llama", "granite", "granitemoe", "smollm3")
LOWERED = ("gemma2", "gemma3", "nemotron")  # whose norms the converter adds 1 to


def metadata(arch: str, config: Config, extra: Config) -> Config:
    """What the converter writes of a config; `extra` replaces and adds."""
    sizes = {key: next(config[name] for name in names if name in config) for key, names in SIZES.items()}
    hidden, heads = sizes["embedding_length"], sizes["attention.head_count"]
    eps = next(config[key] for key in NORM_KEYS if key in config)
    kind = "layer_norm_rms_epsilon" if "rms_norm_eps" in config else "layer_norm_epsilon"
    keys = sizes | {
        "feed_forward_length": config.get("intermediate_size") or 4 * hidden,
        "attention.head_count_kv": config.get("num_key_value_heads", heads),
        f"attention.{kind}": eps,
        **_rope(config, config.get("head_dim") or hidden // heads),
        **extra,
    }
    tokens = ["he", *byte_level_tokens()][:VOCAB]
    tokenizer = {"model": "gpt2", "pre": "smollm", "tokens": tokens, "token_type": [1] * VOCAB, "merges": ["h e"]}
    return {f"{arch}.{k}": v for k, v in keys.items()} | {f"tokenizer.ggml.{k}": v for k, v in tokenizer.items()}


def _rope(config: Config, head_dim: int) -> Config:
    if not config.get("rope_parameters"):
        return {}
    rope = config["rope_parameters"]
    rope = rope.get("full_attention", rope)  # Gemma 3 and OLMo 3 have two sets
    keys = {
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.freq_base": rope["rope_theta"],
        "rope.dimension_count": int(head_dim * rope.get("partial_rotary_factor", 1.0)),
    }
    if rope["rope_type"] == "yarn":
        stated = {f"rope.scaling.yarn_{name}": rope[name] for name in ("beta_fast", "beta_slow") if name in rope}
        keys |= {"rope.scaling.type": "yarn", "rope.scaling.factor": rope["factor"], **stated}
        keys |= {"rope.scaling.original_context_length": rope["original_max_position_embeddings"]}
    return keys


def converted(arch: str, config: Config, tensors: Tensors) -> Tensors:
    """Names, row order and norms as the converter writes them."""
    (code,) = (code for code, text in gguf.MODEL_ARCH_NAMES.items() if text == arch)
    layers = next(config[name] for name in SIZES["block_count"] if name in config)
    names = gguf.get_tensor_name_map(code, layers)
    result = {}
    for name, values in stacked(tensors).items():
        for cut, part in _cut(arch, config, name, values):
            module, _, parameter = cut.rpartition(".")
            if arch in PERMUTED and (count := _heads(config).get(module.rpartition(".")[2])):
                part = interleave(part, count)
            if arch in LOWERED and "norm" in module and parameter == "weight":
                part = part + np.float32(1)
            stored = names.get_name(module.removeprefix("transformer." if arch == "bloom" else ""))
            result[f"{stored}.{parameter}"] = part
    return result | _factors(config)


def _heads(config: Config) -> dict[str, int]:
    heads = config["num_attention_heads"]
    return {"q_proj": heads, "k_proj": config.get("num_key_value_heads", heads)}


def stacked(tensors: Tensors) -> Tensors:
    """Experts of a layer in one tensor, in order; a gate to one column without that axis."""
    result, experts = {}, defaultdict(list)
    for name in sorted(tensors, key=lambda name: [int(p) if p.isdigit() else -1 for p in name.split(".")]):
        if (plain := re.sub(r"\.experts\.\d+\.", ".experts.", name)) != name:
            experts[plain].append(tensors[name])
        else:
            result[name] = tensors[name][0] if "shared_expert_gate" in name else tensors[name]
    return result | {name: np.stack(matrices) for name, matrices in experts.items()}


def _cut(
    arch: str, config: Config, name: str, values: NDArray[np.float32]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The tensors that one becomes: mostly itself."""
    if name.endswith("e_score_correction_bias"):
        yield name.replace("_bias", ".bias"), values.reshape(-1)
    elif "query_key_value" in name:
        heads = next(config[key] for key in SIZES["attention.head_count"] if key in config)
        yield name, separate(values, heads, _kv_heads(config, heads))
    elif arch in CUTS and (cut := CUTS[arch](config, name, values)):
        yield from cut.items()
    else:
        yield name, values


def _kv_heads(config: Config, heads: int) -> int:
    """Falcon's; one kv head for each query elsewhere."""
    if "num_kv_heads" not in config:
        return heads
    return 1 if config["multi_query"] and not config["new_decoder_architecture"] else int(config["num_kv_heads"])


def separate(rows: NDArray[np.float32], heads: int, kv_heads: int) -> NDArray[np.float32]:
    """For each kv head its queries, its key, its value: as all q, all k, all v."""
    group = heads // kv_heads
    each = rows.reshape(kv_heads, group + 2, -1, *rows.shape[1:])
    parts = (each[:, :group], each[:, group : group + 1], each[:, group + 1 :])
    return np.concatenate([part.reshape(-1, *rows.shape[1:]) for part in parts])


def _gpt2(config: Config, name: str, values: NDArray[np.float32]) -> Tensors:
    return {name: values.T} if values.ndim == 2 and ".h." in name else {}


def _gpt_oss(config: Config, name: str, values: NDArray[np.float32]) -> Tensors:
    """Matrices are turned; gate and up, which stand in turn, are parted."""
    if name.endswith("sinks"):
        return {f"{name}.weight": values}
    stem, _, kind = name.rpartition(".")
    if "experts" not in stem:
        return {}
    parameter = "bias" if kind.endswith("_bias") else "weight"
    rows = values if parameter == "bias" else values.swapaxes(1, 2)
    if kind.startswith("down"):
        return {f"{stem}.down_proj.{parameter}": rows}
    return {f"{stem}.{half}_proj.{parameter}": rows[:, start::2] for start, half in ((0, "gate"), (1, "up"))}


def _granite_moe(config: Config, name: str, values: NDArray[np.float32]) -> Tensors:
    if not name.endswith("input_linear.weight"):
        return {}
    gate, up = np.split(values, 2, axis=1)
    stem = name.removesuffix("input_linear.weight")
    return {f"{stem}experts.w1.weight": gate, f"{stem}experts.w3.weight": up}


def _deepseek2(config: Config, name: str, values: NDArray[np.float32]) -> Tensors:
    """Maps of latents to keys, turned, and to values."""
    if not name.endswith("kv_b_proj.weight"):
        return {}
    plain, value = config["qk_nope_head_dim"], config["v_head_dim"]
    each = values.reshape(config["num_attention_heads"], plain + value, -1)
    keys, rest = np.split(each, [plain], axis=1)
    return {name.replace("kv_b", "k_b"): keys.swapaxes(1, 2), name.replace("kv_b", "v_b"): rest}


CUTS: dict[str, Callable[[Config, str, NDArray[np.float32]], Tensors]] = {
    "gpt2": _gpt2,
    "gpt-oss": _gpt_oss,
    "granitemoe": _granite_moe,
    "deepseek2": _deepseek2,
}


def _factors(config: Config) -> Tensors:
    """LongRoPE's factors, which are tensors."""
    scaling = config.get("rope_parameters") or {}
    if scaling.get("rope_type") != "longrope":
        return {}
    return {f"rope_factors_{w}.weight": np.array(scaling[f"{w}_factor"], np.float32) for w in ("short", "long")}
