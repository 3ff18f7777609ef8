"""On a GPU: the tiny checkpoints of the families against transformers (see build_families.py).

    python -m tests.gpu.run_families FOLDER [PATTERN ...]

Logits at 128 positions, of one prompt at once and of a prompt with 28 decodes, not further (root of mean square) from
transformers in f32 than 1.5 times transformers in bf16, and none of them 5 times as far as is usual there. Greedy text
of 64 tokens that parts from that of f32 only where rounding may decide, and the same in company as alone where the
artifact promises it. Exit status 1 if not.

A router that is nearly undecided sends a token to another expert by any rounding, transformers' in bf16 too, and what
attends that token is off as well. So there are several references, with such near-ties taken any way
(build_families.py, near_ties.py), and both our logits and bf16's are held to the nearest; a choice that is no near-tie
counts as an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from tests.gpu import arguments
from tests.gpu.nearest_reference import FAR, Parts, error_parts, nearest_error
from warploom.runtime.artifact import Artifact, load
from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.llm import LLM
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.step_batch import StepBatch

SLACK = 1.5
DECODES = 28
PROMPT = 80  # tokens before the greedy text
Known = Mapping[str, np.ndarray]


def step(device: CudaDevice, ids: np.ndarray, start: int, stop: int, first_row: int) -> np.ndarray:
    """Logits of the positions from `first_row` on, in as many calls as the device's rows need."""
    size, positions = device.page_size, np.arange(start, stop, dtype=np.int32)
    backwards = np.arange(-(-len(ids) // size), dtype=np.int32)[::-1]  # so that a wrong page shows
    pages = backwards[: -(-stop // size)].copy()
    rows = np.arange(first_row - start, stop - start, dtype=np.int32)
    found = []
    for chosen in np.array_split(rows, -(-len(rows) // device.max_seqs)):
        batch = StepBatch(
            token_ids=ids[start:stop].astype(np.int32),
            positions=positions,
            slots=(pages[positions // size] * size + positions % size).astype(np.int32),
            page_table=pages[None],
            query_start=np.array([0, stop - start], np.int32),
            context_lens=np.array([stop], np.int32),
            logit_rows=chosen,
            sampling=None,
            top_logprobs=False,
        )
        found.append(device.logits(batch))
    return np.concatenate(found)


def logit_parts(device: CudaDevice, known: Known) -> tuple[Parts, Parts]:
    """Errors of a prompt at once, and of decodes."""
    ids, exact, bf16, count = known["ids"], known["exact"], known["bf16"], len(known["ids"])
    whole = step(device, ids, 0, count, 0)
    step(device, ids, 0, count - DECODES, count - DECODES - 1)
    decoded = np.concatenate([step(device, ids, i, i + 1, i) for i in range(count - DECODES, count)])
    late = exact[:, :, -DECODES:]
    return error_parts(whole, bf16, exact), error_parts(decoded, bf16[-DECODES:], late)


def check_text(artifact: Artifact, device: CudaDevice, known: Known) -> tuple[str, bool]:
    """Where a greedy text parts from that of f32, and what other requests change; whether that is as it should be."""
    ids, text = known["text"][:PROMPT].tolist(), known["text"][PROMPT:].tolist()
    greedy = SamplingParams(temperature=0.0, max_tokens=len(text), ignore_eos=True)
    drawn = SamplingParams(temperature=0.9, top_p=0.9, seed=3, max_tokens=24, ignore_eos=True)
    prompts, params = [ids, ids[5:9], ids[20:77]], [greedy, drawn, greedy]
    llm = LLM(artifact, device=device)
    together = [answer.token_ids for answer in llm.generate(prompts, params)]
    alone = [llm.generate([prompt], one)[0].token_ids for prompt, one in zip(prompts, params, strict=True)]
    apart = next((i for i, token in enumerate(text) if alone[0][i] != token), len(text))
    lost = loss(known, apart, alone[0][apart]) if apart < len(text) else 0.0
    cuda = artifact.target(device.target).cuda
    same, promised = together == alone, cuda is not None and cuda.deterministic
    report = f"text {apart}" + (f" ({lost:.2f})" if lost else "") + (", alone" if same else "")
    return report, lost <= SLACK and (same or not promised)


def loss(known: Known, place: int, token: int) -> float:
    """How much less likely f32 finds a token than its own, as a part of the largest error of bf16.

    Near-ties of routers may have been taken any way.
    """
    rows = known["exact_text"][:, :, place]
    gap = float((rows.max(-1) - rows[..., token]).min())
    return gap / float(np.abs(nearest_error(known["bf16_text"], known["exact_text"])).max())


def check(folder: Path) -> bool:
    """One artifact; prints its errors as parts of what transformers in bf16 is off."""
    known: Known = np.load(folder.parent / "reference.npz")
    artifact = load(folder)
    device = CudaDevice(artifact, max_tokens=128, max_seqs=32)
    try:
        parts = logit_parts(device, known)
        text, good_text = check_text(artifact, device, known)
    finally:
        device.close()
    good = good_text and all(part.all <= SLACK and part.worst <= FAR for part in parts)
    errors = ", ".join(f"{name} {part.all:.3f}" for name, part in zip(("prompt", "decodes"), parts, strict=True))
    worst = max(part.worst for part in parts)
    mode = "" if folder.name == "artifact" else f" {folder.name}"
    print(f"{folder.parent.name + mode:38} {errors}, worst {worst:.2f}; {text} {'' if good else 'FAILED'}", flush=True)
    return good


def main() -> int:
    """All cases; an exception in one does not keep the others from being run."""
    parser = arguments.parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="of the names of cases; all without")
    given = parser.parse_args()
    root, patterns = given.folder, given.patterns
    failed = []
    for folder in sorted(path.parent for path in root.glob("*/*/manifest.json")):
        name = str(folder.relative_to(root))
        if patterns and not any(fnmatch(name, pattern) for pattern in patterns):
            continue
        try:
            good = check(folder)
        except Exception as error:
            print(f"{name:38} {type(error).__name__}: {error}", flush=True)
            good = False
        failed += [] if good else [name]
    print(f"failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
