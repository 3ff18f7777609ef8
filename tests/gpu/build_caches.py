"""Here, without a GPU: a tiny model with latents compiled for CUDA with caches of every kind; see run_caches.py.

    python -m tests.gpu.build_caches FOLDER

Writes FOLDER/<kind>/<mode>: artifacts, and FOLDER/reference.npz: token ids, and logits of transformers in f32 on the
weights rounded to bf16.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.gpu import arguments
from tests.gpu.build_families import read
from tests.model.families.case import VOCAB, make_checkpoint
from tests.model.families.deepseek_cases import DENSE_ONLY, LATENT
from tests.model.families.dense_cases import case
from tests.model.families.test_families import logits_of
from warploom.compiler import compile

KINDS = ("auto", "fp8", "int8")
SIZES = {"kv_lora_rank": 256, "qk_rope_head_dim": 64, "q_lora_rank": None, "v_head_dim": 24}  # as Hopper's kernels ask
CASE = case("deepseek_caches", "DeepseekV2", LATENT | DENSE_ONLY | SIZES | {"max_position_embeddings": 1024})
LENGTH = 700  # keys are expanded from 256 tokens of a step on


def main() -> None:
    """Build."""
    parser = arguments.parser(__doc__)
    parser.add_argument("folder", type=Path)
    root: Path = parser.parse_args().folder
    made = make_checkpoint(CASE, root / "checkpoint")
    made.to(torch.bfloat16).save_pretrained(root / "checkpoint")
    model = read(CASE, type(made), root / "checkpoint", torch.float32)
    ids = np.random.default_rng(0).integers(3, VOCAB, LENGTH)
    np.savez(root / "reference.npz", ids=ids, exact=logits_of(model, ids.tolist()))
    for kind in KINDS:
        for mode in ("default", "deterministic"):
            compile(
                root / "checkpoint",
                target="cuda:sm_90",
                kv_cache=kind,
                deterministic=mode == "deterministic",
                out=root / kind / mode,
            )
            print(f"{kind} {mode}: built", flush=True)


if __name__ == "__main__":
    main()
