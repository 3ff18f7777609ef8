"""OLMo 3 (transformers `modeling_olmo3`): OLMo 2 with windows, whose layers are turned without a scaling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from warploom.frontend.models.attention import Heads, self_attention, separate
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.decoder import Decoder
from warploom.frontend.models.mlp import gated
from warploom.frontend.models.norms import rms
from warploom.frontend.models.registry import Family
from warploom.frontend.models.residual import Layer, post_norm
from warploom.frontend.models.rope import Rotary, read_rotary
from warploom.frontend.models.sizes import read_sizes
from warploom.frontend.models.windows import FULL, SLIDING, read_windows

THETA = 500000.0


def parse(config: Mapping[str, Any]) -> Decoder:
    """Read a config.json; refuses what it does not implement."""
    read = ConfigReader(config, "OLMo 3")
    sizes, norm = read_sizes(read), rms(read.real("rms_norm_eps", 1e-5))
    rotaries, bias = _rotaries(read, sizes.head_dim), read.flag("attention_bias", False)
    mlp = gated(sizes.intermediate, read.expect("hidden_act", "silu"))

    def layer(window: int) -> Layer:
        heads = Heads.of(sizes, rotaries[SLIDING if window else FULL], window=window)
        project = separate(heads, bias=bias, qk_norm=norm, norm_all=True)
        return post_norm(norm, self_attention(heads, project, out_bias=bias), mlp)

    windows = read_windows(read, sizes.layers, default=4096, sliding=lambda index: (index + 1) % 4 != 0)
    read.finish()
    return Decoder(sizes, tuple(map(layer, windows)), norm)


def _rotaries(read: ConfigReader, head_dim: int) -> dict[str, Rotary]:
    """A set for each type of layer (transformers 5), or a scaling for those that see everything (4)."""
    whole = read_rotary(read, head_dim, layer_type=FULL, theta=THETA)
    own = read.part("rope_parameters").get(SLIDING) or {"rope_theta": read.get("rope_theta", THETA)}
    return {FULL: whole, SLIDING: read_rotary(ConfigReader({"rope_parameters": own}, "OLMo 3"), head_dim)}


FAMILY = Family(
    "OLMo 3", ("Olmo3ForCausalLM",), parse, ("norms after", "QK-norm of all heads", "windows"), checked=("cpu", "cuda")
)
