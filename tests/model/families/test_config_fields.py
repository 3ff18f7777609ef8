"""No field of any config class is overlooked: what transformers notices, we notice or refuse.

For every architecture, every field of its config (and of the parts of it) is changed. If the program stays the same,
so must transformers' logits. With WARPLOOM_EXAMPLES, all cases are asked, and the reverse too: if the program changes,
so must the logits.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import pytest
import torch

from tests.model.families.case import Case
from tests.model.families.config_mutations import Oracle, changed, fields_of, mutations, program, spelled_out
from tests.model.families.test_families import CASES

ALL = "WARPLOOM_EXAMPLES" in os.environ
# What else a model gives back; how far it serves; a switch of implementations, of which we have one.
OUTPUTS = {
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "max_position_embeddings",
    "_attn_implementation",
}
# Differences that are meant to be, in the last parts of paths.
OURS = {
    "tie_word_embeddings": "the weights of a tied head are there, and equal",
    "long_factor": "the compiled context decides, not the length of a prompt",
    "short_factor": "likewise",
    "norm_topk_prob": "DeepSeek's own code reads it",
    "truncate": "transformers overlooks it in the sets of types of layers",
}
SIZES = {
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "max_position_embeddings", "head_dim", "layer_types", "text_config", "vision_config"),
    *("n_positions", "n_embd", "n_layer", "n_head", "d_model", "n_heads", "n_layers", "max_seq_len"),
    *("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok", "moe_k"),
    *("moe_intermediate_size", "shared_expert_intermediate_size", "n_shared_experts", "n_group", "topk_group"),
    *("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "rope_parameters"),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models are tiny: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def one_of_each() -> Iterator[Case]:
    """The first case of every architecture, or all."""
    seen: set[str] = set()
    for case in CASES:
        if ALL or case.model not in seen:
            seen.add(case.model)
            yield case


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("case", tuple(one_of_each()), ids=lambda case: case.id)
def test_what_transformers_notices_is_noticed(case: Case) -> None:
    config = spelled_out(case, fields_of(case))
    usual, oracle = program(config), Oracle(case, config)
    assert usual is not None
    text = ("text_config",) if "text_config" in config else ()  # all that is read of a model that also sees
    for path, value in mutations(config["text_config"], text) if text else mutations(config):
        if path[-1] in OUTPUTS:
            continue
        other = changed(config, path, value)
        ours = program(other)
        if ours == usual:
            assert oracle.notices(other) is not True, f"{'.'.join(path)}={value!r} is overlooked"
        elif ours is not None and ALL and path[-1] not in OURS:
            assert oracle.notices(other) is not False, f"{'.'.join(path)}={value!r} changes what it should not"


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_defaults_are_those_of_transformers(case: Case) -> None:
    """A config that states its sizes alone means what transformers makes of it."""
    stated = {name: value for name, value in fields_of(case).items() if name in SIZES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        full = spelled_out(case, stated)
    required = {name: full[name] for name in full if name in SIZES and (name in stated or full[name] is not None)}
    bare = {"architectures": [case.model], **required}
    assert program(bare) == program(full) is not None
