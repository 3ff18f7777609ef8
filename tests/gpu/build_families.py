"""Here, without a GPU: tiny checkpoints of the families compiled for CUDA, and what transformers says of them.

    python -m tests.gpu.build_families FOLDER [CASE ...]

Writes FOLDER/<case>/artifact, FOLDER/<case>/deterministic and FOLDER/<case>/reference.npz: token ids, the logits of
transformers in f32 on the weights rounded to bf16, with the near-ties of routers taken any way (near_ties.py), those
in bf16, whose error is what bf16 costs, and a greedy text. Cases such as `llama.int4` have sizes that schemes and
kernels ask for; their weights are such that the scheme stores them without loss. To carry it (25 MB):
`hardlink FOLDER; find FOLDER -type f -not -path '*/checkpoint/*' | awk -F/ '{print $NF, $0}' | sort | cut -d' ' -f2 |
tar cf - -T - | xz > families.tar.xz`, so that files that are alike stand side by side. Judging all takes 45 s.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from tests.gpu import arguments
from tests.gpu.lossless_weights import make_lossless, rounded_activations
from tests.gpu.near_ties import TooManyTies, references
from tests.gpu.run_families import PROMPT
from tests.model.families.case import VOCAB, Case, make_checkpoint
from tests.model.families.deepseek_cases import DENSE_ONLY, LATENT
from tests.model.families.dense_cases import WIDE, case
from tests.model.families.expert_cases import GPT_OSS, SEVEN
from tests.model.families.test_families import CASES, LENGTH, NEW_TOKENS, logits_of
from warploom.compiler import compile
from warploom.errors import WarploomError

EVEN = {"hidden_size": 96, "intermediate_size": 160}  # of whole groups
EVEN_EXPERTS = EVEN | {"moe_intermediate_size": 64}
EVEN_LATENT = LATENT | EVEN_EXPERTS | {"hidden_size": 160, "v_head_dim": 32, "kv_lora_rank": 64, "q_lora_rank": 64}
ONE_KERNEL = {"hidden_size": 384, "intermediate_size": 256, "num_hidden_layers": 6, "max_position_embeddings": 160}
ONE_KERNEL |= {"num_attention_heads": 6, "num_key_value_heads": 2}  # heads of 64
EVEN_CASES = (
    (case("llama", "Llama", WIDE | EVEN | {"attention_bias": True}), ("int8", "int4", "fp8")),
    (case("deepseek_v2_dense", "DeepseekV2", EVEN_LATENT | DENSE_ONLY | {"q_lora_rank": None}), ("fp8",)),
    (case("deepseek_v3", "DeepseekV3", EVEN_LATENT | {"n_group": 4}), ("int8", "int4")),
    (case("qwen3_moe", "Qwen3Moe", WIDE | SEVEN | EVEN_EXPERTS | {"norm_topk_prob": True}), ("int8", "int4")),
    (case("gpt_oss", "GptOss", GPT_OSS | EVEN), ("mxfp4",)),
    (case("llama_one_kernel", "Llama", ONE_KERNEL), ("bf16",)),  # not quantized, for layers that run as one
)


def build(case: Case, folder: Path, scheme: str = "bf16") -> None:
    """One case."""
    made = make_checkpoint(case, folder / "checkpoint")
    if scheme != "bf16":
        make_lossless(made, scheme)
    made.to(torch.bfloat16).save_pretrained(folder / "checkpoint")
    model, narrow = (read(case, type(made), folder / "checkpoint", dtype) for dtype in (torch.float32, torch.bfloat16))
    with rounded_activations(narrow, scheme):
        ids, exact, bf16 = judged(model, narrow, random_ids)
        said, exact_text, bf16_text = judged(model, narrow, greedy_ids)
    after = slice(PROMPT - 1, -1)
    np.savez(
        folder / "reference.npz",
        ids=np.array(ids),
        exact=exact,
        bf16=bf16,
        text=np.array(said),
        exact_text=exact_text[:, :, after],
        bf16_text=bf16_text[after],
    )
    for name in ("artifact",) if scheme != "bf16" else ("artifact", "deterministic"):
        compile(
            folder / "checkpoint",
            target="cuda:sm_90",
            quantization=scheme,
            deterministic=name == "deterministic",
            out=folder / name,
        )


def judged(
    model: PreTrainedModel, narrow: PreTrainedModel, choose: Callable[[PreTrainedModel, int], list[int]]
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """The first choice of tokens whose near-ties are few enough to keep all they may lead to; its references."""
    for seed in count():
        ids = choose(model, seed)
        try:
            return ids, *references(model, narrow, ids)
        except TooManyTies as error:
            print(f"  seed {seed}: {error}", flush=True)
    raise AssertionError


def random_ids(model: PreTrainedModel, seed: int, length: int = LENGTH) -> list[int]:
    """For any model."""
    found: list[int] = np.random.default_rng(seed).integers(3, VOCAB, length).tolist()
    return found


def greedy_ids(model: PreTrainedModel, seed: int) -> list[int]:
    """A random prompt, and what the model in f32 continues with."""
    ids = random_ids(model, seed, PROMPT)
    for _ in range(NEW_TOKENS):
        ids.append(int(logits_of(model, ids)[-1].argmax()))
    return ids


def read(case: Case, model_type: type[PreTrainedModel], checkpoint: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Read anew rather than converted: `to` would round the rotations' frequencies to bf16 as well."""
    model = model_type.from_pretrained(checkpoint, dtype=dtype, attn_implementation=case.attention)
    model.config._experts_implementation = "eager"  # the only one that takes any size
    return model.eval()


def main() -> None:
    """All cases asked for; says which do not compile."""
    parser = arguments.parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="all without")
    given = parser.parse_args()
    every = {case.id: (case, "bf16") for case in CASES}
    every |= {f"{case.id}.{scheme}": (case, scheme) for case, schemes in EVEN_CASES for scheme in schemes}
    for name in given.cases or every:
        case, scheme = every[name]
        try:
            build(case, given.folder / name, scheme)
            print(f"{name}: built", flush=True)
        except WarploomError as error:
            print(f"{name}: refused: {error}", flush=True)


if __name__ == "__main__":
    main()
