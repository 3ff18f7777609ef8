"""Here, without a GPU: tiny checkpoints of the families compiled for CUDA, and what transformers says of them.

    python tests/gpu/build_families.py FOLDER [CASE ...]

Writes FOLDER/<case>/artifact and FOLDER/<case>/reference.npz: token ids, the logits of transformers in f32 on the
weights rounded to bf16, and in bf16, whose error is what bf16 costs; whether tokens are routed to experts. Pack it with
`tar cJf` to carry it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from tests.model.families.case import VOCAB, Case, make_checkpoint
from tests.model.families.test_families import CASES, LENGTH, logits_of
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
    model = make_checkpoint(case, folder / "checkpoint")
    model.to(torch.bfloat16).save_pretrained(folder / "checkpoint")
    ids = np.random.default_rng(0).integers(3, VOCAB, LENGTH).tolist()
    rounded = logits_of(model.float(), ids)
    with torch.no_grad():
        narrow = model.to(torch.bfloat16)(torch.tensor([ids])).logits[0].float().numpy()
    routed = bool(getattr(model.config, "num_experts_per_tok", 0))
    np.savez(folder / "reference.npz", ids=np.array(ids), exact=rounded, bf16=narrow, routed=routed)
    compile(folder / "checkpoint", target="cuda:sm_90", out=folder / "artifact")


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
