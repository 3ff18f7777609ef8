"""On a GPU: a tiny model with latents and caches of every kind against transformers in f32 (see build_caches.py).

    python -m tests.gpu.run_caches FOLDER

Root of mean square of the errors of logits over their spread: of a prompt at once, and of its last tokens as a chunk
and as decodes after that. Exit status 1 if it is larger than roundings of the cache, and those of bf16, explain.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.gpu import arguments
from tests.gpu.run_families import step
from warploom.runtime.artifact import load
from warploom.runtime.cuda.device import CudaDevice

LIMITS = {"auto": 0.1, "fp8": 0.25, "int8": 0.12}
CHUNK, DECODES = 100, 28  # tokens at the end


def errors(folder: Path, ids: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """By part."""
    device, count = CudaDevice(load(folder), max_tokens=1024, max_seqs=128), len(ids)
    late = count - DECODES
    try:
        whole = step(device, ids, 0, count, 0)
        step(device, ids, 0, late - CHUNK, late - CHUNK - 1)
        chunk = step(device, ids, late - CHUNK, late, late - CHUNK)
        decoded = np.concatenate([step(device, ids, i, i + 1, i) for i in range(late, count)])
    finally:
        device.close()
    parts = {"prompt": (whole, exact), "chunk": (chunk, exact[late - CHUNK : late]), "decodes": (decoded, exact[late:])}
    return {name: float(np.sqrt(np.mean((x - y) ** 2)) / y.std()) for name, (x, y) in parts.items()}


def main() -> int:
    """All artifacts."""
    parser = arguments.parser(__doc__)
    parser.add_argument("folder", type=Path)
    root: Path = parser.parse_args().folder
    known, failed = np.load(root / "reference.npz"), 0
    for kind, limit in LIMITS.items():
        for folder in sorted(path for path in (root / kind).iterdir()):
            found = errors(folder, known["ids"], known["exact"])
            good = all(error <= limit for error in found.values())
            failed += not good
            report = ", ".join(f"{name} {error:.4f}" for name, error in found.items())
            print(f"{'' if good else 'FAILED '}{kind} {folder.name}: {report}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
