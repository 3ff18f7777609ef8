"""On a GPU: a decode step as one persistent kernel against the same step as a launch for each phase.

    python -m tests.gpu.run_persistent ARTIFACT [--time]
    compute-sanitizer --tool racecheck python -m tests.gpu.run_persistent ARTIFACT --only 2 300

The artifact's `@step` has to have a replacement that this GPU runs. Logits of single tokens over caches of noise, from
empty to long, and over a cache that steps of one token have written themselves, are compared, in units of the spread
of a row; runs of one step have to give the same bits. `--time`: the time of a step both ways. `--only`: single steps of
the persistent kernel, as the tool takes long (four layers are enough). Exit status 1 if they are further apart than the
tolerance, two runs differ, or a logit is not finite.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import numpy as np

from tests.gpu import arguments
from tests.gpu.single_rows import _fill, _row
from warploom.runtime.artifact import Artifact, load
from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.cuda.driver import Driver, Gpu
from warploom.runtime.cuda.profile import fill_cache, time_step
from warploom.tools.synthetic import ragged_batch

CONTEXTS = (1, 2, 17, 64, 65, 255, 256, 257, 258, 300, 511, 514, 1000, 2047, 4000, 8000)
FILLED, WRITTEN = 40, 8  # tokens of a prompt, and tokens written one by one
TOLERANCE = 0.1  # of the spread of a row's logits: both round to bf16 in every layer, at other places
BYTES = 1 << 30


@contextmanager
def multiprocessors(number: int | None) -> Iterator[None]:
    """GPUs that are opened inside seem to have so many; None: as many as they have."""
    describe = Driver._describe

    def described(self: Driver, version: int) -> Gpu:
        gpu = describe(self, version)
        return gpu if number is None else replace(gpu, num_multiprocessors=number)

    with patch.object(Driver, "_describe", described):
        yield


def logits(artifact: Artifact, device: CudaDevice, repeats: int) -> tuple[dict[str, np.ndarray], int]:
    """Logits by case, and how many repeated steps gave other bits."""
    vocab, found, differing = artifact.manifest.vocab_size, {}, 0
    fill_cache(device)
    for context in CONTEXTS:
        if context <= artifact.manifest.max_context:
            batch = ragged_batch(device, vocab, [1], [context], temperature=0, seed=context)
            runs = [device.logits(batch) for _ in range(repeats)]
            differing += sum(not np.array_equal(run, runs[0]) for run in runs)
            found[f"noise {context}"] = runs[0]
    batch = ragged_batch(device, vocab, [1] * WRITTEN, [FILLED + WRITTEN] * WRITTEN, temperature=0, seed=1)
    pages, size = batch.page_table[0], device.page_size
    _fill(device, pages, FILLED, vocab, seed=3)
    for step in range(WRITTEN):
        position = np.array([FILLED + step], np.int32)
        one = _row(batch, 0)._replace(
            token_ids=batch.token_ids[step : step + 1],
            positions=position,
            slots=pages[position // size] * size + position % size,
            context_lens=position + 1,
        )
        found[f"written {step}"] = device.logits(one)
    return found, differing


def few(artifact: Artifact, contexts: list[int]) -> int:
    """Single steps; 1 if a logit is not finite."""
    device = CudaDevice(artifact, max_tokens=64, max_seqs=1, kv_bytes=1 << 26)
    fill_cache(device)
    found = {}
    for context in contexts:
        batch = ragged_batch(device, artifact.manifest.vocab_size, [1], [context], temperature=0, seed=context)
        found[context] = bool(np.isfinite(device.logits(batch)).all())
        print(f"  {context}: {'finite' if found[context] else 'not finite'}", flush=True)
    device.close()
    return int(not all(found.values()))


def main() -> int:
    """Compare and report."""
    parser = arguments.parser(__doc__)
    parser.add_argument("artifact")
    parser.add_argument("--time", action="store_true", help="how long a step takes both ways")
    parser.add_argument("--only", type=int, nargs="+", metavar="CONTEXT", help="single steps of the persistent kernel")
    given = parser.parse_args()
    artifact = load(given.artifact)
    if given.only:
        return few(artifact, given.only)
    found, bad = {}, 0
    for name, number in (("persistent", None), ("launched", 1)):
        with multiprocessors(number):
            device = CudaDevice(artifact, max_tokens=512, max_seqs=2, kv_bytes=BYTES)
        queue = len(device.program.entries["step"].launches)
        found[name], differing = logits(artifact, device, 3)
        print(f"{name}: {queue} launches, {differing} of {2 * len(CONTEXTS)} repeated steps differ", flush=True)
        bad += differing
        for context in (256, 2048) if given.time else ():
            batch = ragged_batch(device, artifact.manifest.vocab_size, [1], [context], temperature=1, seed=1)
            print(f"  {context}: {time_step(device, batch, 50, time.perf_counter)}", flush=True)
        device.close()
    for case, expected in found["launched"].items():
        actual = found["persistent"][case]
        error = float(np.abs(actual - expected).max() / expected.std())
        same = int(actual.argmax()) == int(expected.argmax())
        bad += not error <= TOLERANCE
        print(f"  {case}: {error:.4f} of the spread, {'same' if same else 'another'} token")
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
