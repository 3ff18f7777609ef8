"""Here, without a GPU: SmolLM2 with its real weights compiled for CUDA, and what the CPU says of five prompts.

    python -m tests.gpu.build_smollm2 MODEL.gguf FOLDER

The text is that of the CPU artifact of the same weights, in bf16; logits are those of f32 weights. Writes
FOLDER/artifact, FOLDER/reference.npz (also how far transformers in bf16 is off), and FOLDER/parts/NN: the weights in
parts of 45 MiB, for machines that take files in small calls (`cat parts/* > artifact/weights/...`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from tests.gpu import arguments
from tests.model.oracle import Oracle
from tests.model.teacher import Teacher
from tests.model.test_smollm2_generation import PROMPTS
from warploom.compiler import compile
from warploom.runtime.artifact import Artifact, load
from warploom.runtime.llm import LLM
from warploom.runtime.sampling_params import SamplingParams

NEW_TOKENS = 64
PART = 45 << 20


def reference(served: Artifact, exact: Artifact) -> dict[str, np.ndarray]:
    """Per prompt: its tokens, 64 greedy tokens, and the logits at its last 32 positions."""
    found: dict[str, np.ndarray] = {}
    params = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True)
    with LLM(served) as llm:
        prompts = [llm.tokenizer.encode(prompt) for prompt in PROMPTS]
        for i, answer in enumerate(llm.generate(prompts, params)):
            found |= {f"prompt{i}": np.array(prompts[i]), f"greedy{i}": np.array(answer.token_ids)}
    with Teacher(exact) as teacher:
        for i, prompt in enumerate(prompts):
            found[f"logits{i}"] = teacher.logits(prompt, [len(prompt)])[-32:].astype(np.float16)
    return found


def bf16_errors(model: Path, found: dict[str, np.ndarray]) -> Iterator[float]:
    """Per prompt: the largest error of transformers in bf16, in units of the spread of a position's logits."""
    oracle = Oracle(model)
    oracle.model.to(torch.bfloat16)
    for i in range(len(PROMPTS)):
        exact = found[f"logits{i}"].astype(np.float32)
        rounded = oracle.logits(found[f"prompt{i}"].tolist())[-32:]
        yield float((np.abs(rounded - exact).max(-1) / exact.std(-1)).max())


def main() -> None:
    """Build everything."""
    parser = arguments.parser(__doc__)
    parser.add_argument("model", metavar="MODEL.gguf")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    model, folder = given.model, given.folder
    artifact = compile(model, target="cuda:sm_90", out=folder / "artifact")
    compile(model, out=folder / "cpu")
    compile(model, quantization="f32", out=folder / "cpu-f32")
    found = reference(load(folder / "cpu"), load(folder / "cpu-f32"))
    found["bf16_error"] = np.array(max(bf16_errors(Path(model), found)))
    np.savez_compressed(folder / "reference.npz", **found)
    (weights,) = (artifact.path / name for name in artifact.manifest.weights)
    data = weights.read_bytes()
    (folder / "parts").mkdir(exist_ok=True)
    for i, start in enumerate(range(0, len(data), PART)):
        (folder / "parts" / f"{i:02}").write_bytes(data[start : start + PART])


if __name__ == "__main__":
    main()
