"""Reading configs: published ones are understood, old and new spellings mean the same, the unknown is refused."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import transformers

from tests.unit.frontend.published_configs import PUBLISHED
from warploom.errors import CheckpointError, UnsupportedModelError
from warploom.frontend.dummy import dummy_tensor
from warploom.frontend.models.config import ConfigReader
from warploom.frontend.models.inputs import CacheSpec
from warploom.frontend.models.registry import families, family_of
from warploom.frontend.models.rope import read_rotary
from warploom.frontend.models.windows import read_windows
from warploom.frontend.tensors import LazyTensor
from warploom.frontend.trace import Limits, geometry_of, trace
from warploom.ir.context import print_module
from warploom.ir.function import functions
from warploom.ir.types import DType, type_of

CACHE = CacheSpec(page_size=16, dtype=DType.F32, k_layout="dim_major")
FEW_LAYERS = 7  # enough for every pattern of layers


def test_every_family_has_a_published_model() -> None:
    known = {config["architectures"][0] for config in PUBLISHED.values()}
    assert families().keys() - known == {"MinistralForCausalLM", "MptForCausalLM"}  # whose config.json say otherwise


def shortened(config: dict[str, Any]) -> dict[str, Any]:
    """The same model with few layers."""
    if "text_config" in config:
        return config | {"text_config": shortened(config["text_config"])}
    per_layer = {k: v[:FEW_LAYERS] for k, v in config.items() if k in ("no_rope_layers", "layer_types") and v}
    (layers,) = {"n_layer", "n_layers", "num_hidden_layers"} & config.keys()
    return config | per_layer | {layers: FEW_LAYERS}


def traced(config: dict[str, Any], max_context: int) -> str:
    module = trace(config, dummy_tensor, CACHE, Limits(64, 4, max_context))
    return print_module(module)


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_config_means_what_transformers_makes_of_it(name: str) -> None:
    """What transformers reads from the published config and writes in its own spelling is the same program."""
    config = shortened(PUBLISHED[name])
    kind = transformers.CONFIG_MAPPING[config["model_type"]]
    fields = {k: v for k, v in config.items() if k not in ("torch_dtype", "auto_map")}
    part = {"partial_rotary_factor": config.get("partial_rotary_factor", 1.0)}
    scaling = {"rope_scaling": config["rope_scaling"] | part} if config.get("rope_scaling") else {}
    rewritten = kind(**fields | scaling).to_dict() | {"architectures": config["architectures"]}
    context = geometry_of(config).max_context
    assert traced(config, context) == traced(rewritten, context)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("Llama-3.2-1B", "hidden_act", "gelu"),
        ("Llama-3.2-1B", "rope_scaling", {"rope_type": "mrope", "mrope_section": [8, 12, 12]}),
        ("Llama-3.2-1B", "rope_scaling", {"rope_type": "linear", "factor": 2.0, "mrope_section": [8, 12, 12]}),
        ("Llama-3.2-1B", "num_key_value_heads", 3),
        ("Llama-3.2-1B", "novel_gate", 1),
        ("Llama-3.2-1B", "sliding_window", 4096),
        ("Mistral-7B-v0.1", "sliding_window", -1),
        ("Mistral-7B-v0.1", "layer_types", ["chunked_attention"] * 32),
        ("gemma-3-1b", "use_bidirectional_attention", True),
        ("falcon-7b", "apply_residual_connection_post_layernorm", True),
        ("gpt2", "add_cross_attention", True),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("starcoder2-3b", "norm_type", "rms_norm"),
        ("command-r7b", "position_embedding_type", "alibi"),
        ("Phi-3.5-mini", "attention_bias", True),
        ("Mixtral-8x7B-v0.1", "num_experts_per_tok", 9),
        ("Qwen3-30B-A3B", "use_sliding_window", True),
        ("bloom-560m", "apply_residual_connection_post_layernorm", True),
        ("bloom-560m", "num_attention_heads", 3),
        ("mpt-7b", "n_heads", 7),
        ("mpt-7b", "expansion_ratio", 2),
        ("mpt-7b", "no_bias", False),
        ("mpt-7b", "attn_config", {"alibi_bias_max": 16}),
        ("mpt-7b", "attn_config", {"alibi": False}),
        ("MiniMax-M2", "attn_type_list", [0, 1]),
        ("MiniMax-M2", "qk_norm_type", "per_head"),
        ("ERNIE-4.5-21B-A3B", "moe_k", 65),
        ("ERNIE-4.5-0.3B", "use_bias", True),
        ("GLM-4.5", "n_group", 3),
        ("GLM-4.7-Flash", "mlp_layer_types", ["sparse", "dense"]),
        ("granite-3.1-1b-a400m", "num_experts_per_tok", 33),
        ("DeepSeek-V2", "topk_method", "noaux_tc"),
        ("DeepSeek-V2", "topk_group", 9),
        ("DeepSeek-V3", "n_group", 3),
        ("DeepSeek-V3", "scoring_func", "softmax"),
        ("DeepSeek-V3", "num_experts_per_tok", 257),
    ],
)
def test_a_value_that_we_do_not_have_is_refused_by_family_and_field(name: str, field: str, value: Any) -> None:
    config = PUBLISHED[name] | {field: value}
    with pytest.raises(UnsupportedModelError) as caught:
        family_of(config).parse(config)
    message = str(caught.value)
    assert message.startswith(family_of(config).name)
    assert field in message


WRONG: tuple[Any, ...] = ("x", "", -1, 0, 1.5, [], [1], [[]], {}, {"a": 1}, True, float("nan"), float("inf"), 10**18)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_value_of_the_wrong_kind_is_refused_if_anything_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()
    stated = ConfigReader.stated

    def note(self: ConfigReader, field: str, default: Any) -> Any:
        asked.add(field)
        return stated(self, field, default)

    def get(self: ConfigReader, field: str, default: Any = None) -> Any:
        value = note(self, field, None)
        return default if value is None else value

    monkeypatch.setattr(ConfigReader, "stated", note)
    monkeypatch.setattr(ConfigReader, "get", get)
    config = shortened(PUBLISHED[name])
    parse = family_of(config).parse
    parse(config)
    for field in sorted(asked - {"num_hidden_layers", "n_layer", "n_layers"}):
        for value in WRONG:
            with contextlib.suppress(UnsupportedModelError):
                parse(config | {field: value})


def test_an_unknown_architecture_is_told_the_nearest() -> None:
    with pytest.raises(UnsupportedModelError, match="the nearest that we have is Qwen3ForCausalLM"):
        family_of({"architectures": ["Qwen3VLForCausalLM"]})


def test_the_compiled_context_chooses_between_short_and_long_factors() -> None:
    scaling = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    config = {"rope_scaling": scaling, "original_max_position_embeddings": 64, "max_position_embeddings": 4096}
    rotary = read_rotary(ConfigReader(config, "Any"), 8)
    assert rotary.switch == 64
    assert [2 * f for f in rotary.long_inv_freq] == list(rotary.inv_freq)
    assert rotary.attention_factor == pytest.approx((1 + 6 / 6) ** 0.5)  # log 64 / log 64


def test_an_original_context_without_a_logarithm_is_refused() -> None:
    scaling = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    config = {"rope_scaling": scaling, "original_max_position_embeddings": 1, "max_position_embeddings": 4096}
    with pytest.raises(UnsupportedModelError, match="original_max_position_embeddings"):
        read_rotary(ConfigReader(config, "Any"), 8)


def test_part_of_a_head_is_rotated() -> None:
    assert read_rotary(ConfigReader({"partial_rotary_factor": 0.25}, "Any"), 64, partial=1.0).dim == 16
    assert read_rotary(ConfigReader({}, "Any"), 64, partial=0.5).dim == 32
    whole = read_rotary(ConfigReader({}, "Any"), 64)
    assert whole.inv_freq == pytest.approx([10000.0 ** -(i / 32) for i in range(32)])


def test_null_is_no_window_and_absent_is_the_default() -> None:
    assert read_windows(ConfigReader({"sliding_window": None}, "Any"), 2, default=8) == [0, 0]
    assert read_windows(ConfigReader({}, "Any"), 2, default=8) == [8, 8]
    assert read_windows(ConfigReader({}, "Any"), 4, default=8, sliding=lambda i: i % 2 == 0) == [8, 0, 8, 0]


@pytest.mark.usefixtures("wl")
def test_a_checkpoint_of_the_model_without_its_head_leaves_the_first_name_out() -> None:
    """As the published gpt2 does: `wte.weight`, not `transformer.wte.weight`."""

    def without_prefix(name: str, shape: tuple[int, ...]) -> LazyTensor:
        if name.startswith("transformer."):
            raise CheckpointError(f"tensor {name} is missing")
        return dummy_tensor(name, shape)

    config = shortened(PUBLISHED["gpt2"])
    text = print_module(trace(config, without_prefix, CACHE, Limits(64, 4, 1024)))
    assert '"h.0.attn.c_attn.weight"' in text
    assert "transformer." not in text


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("dtype", [DType.F8, DType.I8])
def test_latent_rows_of_eight_bits_have_five_powers(dtype: DType) -> None:
    cache = CacheSpec(page_size=64, dtype=dtype, k_layout="token_major")
    module = trace(shortened(PUBLISHED["DeepSeek-V2-Lite"]), dummy_tensor, cache, Limits(64, 4, 128))
    assert type_of(functions(module)["step"].inputs["kv"]).shape[2:] == (1, 1, 64 * (512 + 64 + 4 + 1))
