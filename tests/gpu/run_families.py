"""On a GPU: the tiny checkpoints of the families against transformers (see build_families.py).

    python3 tests/gpu/run_families.py FOLDER

Logits at 128 positions, of one prompt at once and of a prompt with 28 decodes, not further (root of mean square) from
transformers in f32 than 1.5 times transformers in bf16. Exit status 1 if not.

A router that is nearly undecided sends a token to another expert by any rounding, transformers' in bf16 too, and what
attends that token is off as well. So there are several references, with such near-ties taken either way
(build_families.py, near_ties.py), and both our logits and bf16's are held to the nearest; a choice that is no near-tie
counts as an error.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tests.gpu.nearest_reference import error_part, nearest_error, rms
from warploom.runtime.artifact import load
from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.step_batch import StepBatch

SLACK = 1.5
DECODES = 28


def step(device: CudaDevice, ids: np.ndarray, start: int, stop: int, first_row: int) -> np.ndarray:
    """Logits of the positions from `first_row` on, in as many calls as the device's rows need."""
    size, positions = device.page_size, np.arange(start, stop, dtype=np.int32)
    pages = np.arange(-(-stop // size), dtype=np.int32)[::-1].copy()  # backwards, so that a wrong page shows
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


def check(folder: Path) -> bool:
    """One case; prints its errors as parts of what transformers in bf16 is off."""
    known = np.load(folder / "reference.npz")
    ids, exact, count = known["ids"], known["exact"], len(known["ids"])
    device = CudaDevice(load(folder / "artifact"), max_tokens=128, max_seqs=32)
    try:
        whole = step(device, ids, 0, count, 0)
        step(device, ids, 0, count - DECODES, count - DECODES - 1)
        decoded = np.concatenate([step(device, ids, i, i + 1, i) for i in range(count - DECODES, count)])
    finally:
        device.close()
    ratios = [
        error_part(actual, narrow, wanted)
        for actual, narrow, wanted in (
            (whole, known["bf16"], exact),
            (decoded, known["bf16"][-DECODES:], exact[:, :, -DECODES:]),
        )
    ]
    ours, theirs = (nearest_error(logits, exact) for logits in (whole, known["bf16"]))
    good = max(ratios) <= SLACK
    report = f"prompt {ratios[0]:.3f}, decodes {ratios[1]:.3f} of bf16's error ({rms(theirs):.4f})"
    largest = np.abs(ours).max() / np.abs(theirs).max()
    print(f"{folder.name:20} {report}; largest {largest:.3f} {'' if good else 'TOO FAR'}", flush=True)
    return good


def main(root: Path) -> int:
    """All cases; an exception in one does not keep the others from being run."""
    failed = []
    for folder in sorted(path.parent.parent for path in root.glob("*/artifact/manifest.json")):
        try:
            good = check(folder)
        except Exception as error:
            print(f"{folder.name:20} {type(error).__name__}: {error}", flush=True)
            good = False
        failed += [] if good else [folder.name]
    print(f"failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
