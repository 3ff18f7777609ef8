"""On a GPU: the tiny checkpoints of the families against transformers (see build_families.py).

    python3 tests/gpu/run_families.py FOLDER

Logits at 128 positions, of one prompt at once and of a prompt with 28 decodes, not further (root of mean square) from
transformers in f32 than 1.5 times transformers in bf16. Exit status 1 if not.

A router that is nearly undecided sends a token to another expert by any rounding, transformers' in bf16 too, and what
attends that token is off as well: a few positions of 128 are then far off, each time others, and they alone would make
the root of the mean square. (Our own program in the interpreter, with bf16 between ops, is 1.7 times as far off as
transformers in bf16 for gpt_oss, all of it at 12 positions whose routers' margin is below 0.04 in f32, or that attend
one of them.) So models with routers are judged by the median over positions, and at most a quarter of the positions may
be further off than 5 times bf16's median.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from warploom.runtime.artifact import load
from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.step_batch import StepBatch

SLACK = 1.5
FAR, FEW = 5.0, 0.25  # of the median error; of the positions
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
    judge = compare_routed if known["routed"] else compare
    ratios = [
        judge(actual - wanted, narrow - wanted)
        for actual, wanted, narrow in (
            (whole, exact, known["bf16"]),
            (decoded, exact[-DECODES:], known["bf16"][-DECODES:]),
        )
    ]
    largest = np.abs(whole - exact).max() / np.abs(known["bf16"] - exact).max()
    good = max(ratios) <= SLACK
    report = f"prompt {ratios[0]:.3f}, decodes {ratios[1]:.3f} of bf16's error ({rms(known['bf16'] - exact):.4f})"
    print(f"{folder.name:20} {report}; largest {largest:.3f} {'' if good else 'TOO FAR'}", flush=True)
    return good


def compare(error: np.ndarray, narrow: np.ndarray) -> float:
    """An error of logits [positions, vocab] as a part of that of bf16."""
    return rms(error) / rms(narrow)


def compare_routed(error: np.ndarray, narrow: np.ndarray) -> float:
    """`compare` of the median position; infinite if too many are far off."""
    ours, theirs = (np.sqrt(np.mean(np.square(e, dtype=np.float64), 1)) for e in (error, narrow))
    usual = float(np.median(theirs))
    return float(np.median(ours)) / usual if np.mean(ours > FAR * usual) <= FEW else float("inf")


def rms(error: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(error, dtype=np.float64))))


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
