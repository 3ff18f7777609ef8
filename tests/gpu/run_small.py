"""On a GPU: every kernel of a small model a few times, by graphs and directly, for compute-sanitizer.

    compute-sanitizer --tool racecheck python -m tests.gpu.run_small ARTIFACT...

A toy (toy_model.py) or a model of two layers with dummy weights: a whole model takes the tools minutes. Exit status 1
if graphs and direct launches give different tokens.
"""

from __future__ import annotations

from tests.gpu import arguments
from warploom.runtime.artifact import Artifact, load
from warploom.runtime.cuda.device import CudaDevice
from warploom.tools.synthetic import ragged_batch

# New tokens and contexts of each sequence: prompts in chunks, decodes, and both in one step.
STEPS = (
    ([70], [70]),
    ([17, 1, 1], [17, 9, 70]),
    ([1], [9]),
    ([1, 1, 1], [9, 70, 5]),
    ([1, 1, 1, 1], [9, 70, 5, 65]),
)


def tokens(artifact: Artifact, graphs: bool) -> list[list[int]]:
    """What each step samples."""
    compiled = artifact.plan(next(iter(artifact.manifest.targets))).entries["step"].dims["T"].max
    device = CudaDevice(artifact, max_tokens=min(96, compiled), max_seqs=4, kv_bytes=1 << 22, graphs=graphs)
    most = min(device.max_tokens, artifact.manifest.max_context)
    found = []
    for seed, (new, contexts) in enumerate(STEPS):
        counts = [min(count, most - len(new) + 1) for count in new]
        lengths = [min(context, most) for context in contexts]
        batch = ragged_batch(
            device, artifact.manifest.vocab_size, counts, lengths, temperature=float(seed % 2), seed=seed
        )
        found.append(device.execute(batch._replace(top_logprobs=seed == 1)).tokens.tolist())
    device.close()
    return found


def main() -> int:
    """Run and compare."""
    parser = arguments.parser(__doc__)
    parser.add_argument("artifacts", nargs="+", metavar="ARTIFACT")
    status = 0
    for path in parser.parse_args().artifacts:
        artifact = load(path)
        captured, direct = (tokens(artifact, graphs) for graphs in (True, False))
        print(f"{path}: {captured}; direct launches: {'the same' if captured == direct else direct}")
        status |= captured != direct
    return status


if __name__ == "__main__":
    raise SystemExit(main())
