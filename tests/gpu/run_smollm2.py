"""On a GPU: SmolLM2 with its real weights against what the CPU says (see build_smollm2.py).

    python -m tests.gpu.run_smollm2 ARTIFACT REFERENCE.npz

Greedy text of 64 tokens on five prompts, four of which must be equal; logits at the last 32 positions of each prompt
not further from f32 than those of transformers in bf16. Exit status 1 if not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tests.gpu import arguments
from warploom.runtime.artifact import load
from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.llm import LLM
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.step_batch import StepBatch


def prefill(device: CudaDevice, prompt: np.ndarray) -> np.ndarray:
    """Logits at the last 32 positions, in chunks of rows that a step may have."""
    size, count = device.page_size, len(prompt)
    pages = np.arange(-(-count // size), dtype=np.int32)
    positions = np.arange(count, dtype=np.int32)
    first = max(0, count - 32)
    rows = np.arange(first, count, dtype=np.int32)
    batches = []
    for chosen in np.array_split(rows, -(-len(rows) // device.max_seqs)):
        batch = StepBatch(
            token_ids=prompt.astype(np.int32),
            positions=positions,
            slots=positions,
            page_table=pages[None],
            query_start=np.array([0, count], np.int32),
            context_lens=np.array([count], np.int32),
            logit_rows=chosen,
            sampling=None,
            top_logprobs=False,
        )
        batches.append(device.logits(batch))
    return np.concatenate(batches)


def texts(llm: LLM, prompts: list[np.ndarray], known: Mapping[str, np.ndarray]) -> list[bool]:
    """Whether the greedy text of each prompt, batched, is the CPU's; says where one parts and how near the tie was."""
    params = SamplingParams(temperature=0.0, max_tokens=64, ignore_eos=True, logprobs=2)
    equal = []
    for i, answer in enumerate(llm.generate([prompt.tolist() for prompt in prompts], params)):
        expected = known[f"greedy{i}"].tolist()
        apart = [k for k, token in enumerate(expected) if answer.token_ids[k] != token]
        equal.append(not apart)
        if apart and answer.logprobs is not None:
            print(f"prompt {i} parts at token {apart[0]}, on the CPU {expected[apart[0]]}: {answer.logprobs[apart[0]]}")
    return equal


def main() -> int:
    """Compare and report."""
    parser = arguments.parser(__doc__)
    parser.add_argument("artifact")
    parser.add_argument("reference", metavar="REFERENCE.npz")
    given = parser.parse_args()
    artifact, known = load(given.artifact), np.load(given.reference)
    prompts = [known[f"prompt{i}"] for i in range(5)]
    device = CudaDevice(artifact, max_tokens=512, max_seqs=32)
    worst = 0.0
    for i, prompt in enumerate(prompts):
        expected = known[f"logits{i}"].astype(np.float32)
        actual = prefill(device, prompt)
        error = np.abs(actual - expected).max(-1) / expected.std(-1)
        agree = (actual.argmax(-1) == expected.argmax(-1)).mean()
        root = np.sqrt(((actual - expected) ** 2).mean())
        print(f"prompt {i}: largest error {error.max():.4f} of the spread, rms {root:.4f}, argmax equal {agree:.3f}")
        worst = max(worst, float(error.max()))
    with LLM(artifact, device=device) as llm:
        equal = texts(llm, prompts, known)
        alone = [texts(llm, [prompt], {"greedy0": known[f"greedy{i}"]})[0] for i, prompt in enumerate(prompts)]
        chat = llm.chat(
            [{"role": "user", "content": "What is the capital of France?"}], SamplingParams(temperature=0.0)
        )
    print(f"greedy text of 64 tokens equal: {equal}, one by one {alone}; chat: {chat.text!r}")
    print(f"largest error {worst:.4f}; of transformers in bf16 {known['bf16_error']:.4f}")
    return int(sum(equal) < 4 or worst > known["bf16_error"])


if __name__ == "__main__":
    raise SystemExit(main())
