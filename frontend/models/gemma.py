"""Gemma 2 and 3, text (transformers `modeling_gemma2`, `modeling_gemma3`)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.dense import scaled
from warploom.frontend.models.mlp import gated
from warploom.frontend.models.norms import rms
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import POST_ATTENTION, Layer, sandwich
from warploom.frontend.models.rope import Rotary, read_rotary
from warploom.frontend.models.sizes import read_sizes
from warploom.frontend.models.windows import FULL, SLIDING, read_windows
from warploom.ir.ops.activation import softcap

NORMS = ("input_layernorm", POST_ATTENTION, "pre_feedforward_layernorm", "post_feedforward_layernorm")


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read, third = ConfigReader(config, "Gemma"), config["architectures"][0] == "Gemma3ForCausalLM"
    sizes, norm = read_sizes(read, tied=True, head_dim=256), rms(read.real("rms_norm_eps", 1e-6), plus_one=True)
    rotaries = _rotaries(read, sizes.head_dim, third)
    bias = read.flag("attention_bias", False)
    read.expect("hidden_act", "gelu_pytorch_tanh", "gelu")  # an old field, which transformers overrides
    mlp = gated(sizes.intermediate, read.expect("hidden_activation", "gelu_pytorch_tanh"))
    scale = read.positive("query_pre_attn_scalar", 256) ** -0.5
    if third:
        read.expect("attn_logit_softcapping", None)  # transformers has the field, but caps no scores
    cap = 0.0 if third else _cap(read, "attn_logit_softcapping", 50.0)
    final = _cap(read, "final_logit_softcapping", 0.0 if third else 30.0)
    pattern = read.integer("sliding_window_pattern", read.integer("_sliding_window_pattern", 6 if third else 2))

    def layer(window: int) -> Layer:
        heads = Heads.of(sizes, rotaries[SLIDING if window else FULL], scale=scale, window=window, softcap=cap)
        project = separate(heads, bias=bias, qk_norm=norm if third else None)
        return sandwich(norm, self_attention(heads, project, out_bias=bias), mlp, NORMS)

    windows = read_windows(read, sizes.layers, default=4096, sliding=lambda index: (index + 1) % pattern != 0)
    read.expect("use_bidirectional_attention", False)
    read.ignore("sliding_window_size")  # another spelling
    read.finish()
    return Decoder(
        sizes,
        tuple(map(layer, windows)),
        norm,
        embedded=lambda weights, x, step: scaled(x, sizes.hidden**0.5),
        scored=partial(softcap, cap=final) if final else lambda logits: logits,
    )


def _cap(read: ConfigReader, name: str, default: float) -> float:
    """0: none, which null says too."""
    return read.real(name, 0.0) if name in read else default


def _rotaries(read: ConfigReader, head_dim: int, third: bool) -> dict[str, Rotary]:
    """Gemma 3 turns windowed layers by angles of their own; a scaling (transformers 4) is of the others alone."""
    whole = read_rotary(read, head_dim, layer_type=FULL, theta=1e6 if third else 1e4)
    if not third or "rope_parameters" in read:
        return {FULL: whole, SLIDING: read_rotary(read, head_dim, layer_type=SLIDING) if third else whole}
    local = ConfigReader({"rope_theta": read.real("rope_local_base_freq", 1e4)}, "Gemma")
    return {FULL: whole, SLIDING: read_rotary(local, head_dim)}


FAMILY = Family(
    "Gemma",
    ("Gemma2ForCausalLM", "Gemma3ForCausalLM"),
    parse,
    ("GeGLU", "norms before and after", "alternating windows", "capped scores and logits", "QK-norm", "two RoPE bases"),
    checked=("cpu", "cuda"),
)
