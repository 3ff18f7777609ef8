"""Here, without a GPU: tiny checkpoints of the families compiled for CUDA, and what transformers says of them.

    python tests/gpu/build_families.py FOLDER [CASE ...]

Writes FOLDER/<case>/artifact and FOLDER/<case>/reference.npz: token ids, the logits of transformers in f32 on the
weights rounded to bf16, with the near-ties of routers taken either way (near_ties.py), and in bf16, whose error is what
bf16 costs. Pack it with `tar cJf` to carry it: ways have most rows in common.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from tests.gpu.near_ties import references
from tests.model.families.case import VOCAB, Case, make_checkpoint
from tests.model.families.test_families import CASES, LENGTH
from warploom.compiler import compile
from warploom.errors import WarploomError

# One of each architecture, and what kernels may trip over: biases, partial and no rotation, windows, caps, one kv head,
# latents.
CHOSEN = (
    "llama_biases_tied", "smollm3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "granite", "olmo2",
    "exaone4", "seed_oss", "starcoder2", "gpt2", "neox", "falcon_7b", "falcon_40b", "falcon_rw", "stablelm_parallel",
    "cohere", "cohere2", "glm4", "nemotron", "mixtral", "qwen3_moe", "qwen2_moe", "olmoe", "gpt_oss",
    "deepseek_v2_dense", "deepseek_v2_lite", "deepseek_v2", "deepseek_v3",
)  # fmt: skip


def build(case: Case, folder: Path) -> None:
    """One case."""
    made = make_checkpoint(case, folder / "checkpoint")
    made.to(torch.bfloat16).save_pretrained(folder / "checkpoint")
    ids = np.random.default_rng(0).integers(3, VOCAB, LENGTH).tolist()
    model, narrow = (read(case, type(made), folder / "checkpoint", dtype) for dtype in (torch.float32, torch.bfloat16))
    exact, bf16 = references(model, narrow, ids)
    np.savez(folder / "reference.npz", ids=np.array(ids), exact=exact, bf16=bf16)
    compile(folder / "checkpoint", target="cuda:sm_90", out=folder / "artifact")


def read(case: Case, model_type: type[PreTrainedModel], checkpoint: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Read anew rather than converted: `to` would round the rotations' frequencies to bf16 as well."""
    model = model_type.from_pretrained(checkpoint, dtype=dtype, attn_implementation=case.attention)
    model.config._experts_implementation = "eager"  # the only one that takes any size
    return model.eval()


def main(root: Path, names: list[str]) -> None:
    """All cases asked for; says which do not compile."""
    for case in CASES:
        if case.id in (names or CHOSEN):
            try:
                build(case, root / case.id)
                print(f"{case.id}: built", flush=True)
            except WarploomError as error:
                print(f"{case.id}: refused: {error}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
