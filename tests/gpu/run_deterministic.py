"""On a GPU: the tokens of a request do not depend on its neighbours, with an artifact compiled `--deterministic`.

    python -m tests.gpu.run_deterministic ARTIFACT

Probes of several lengths, greedy and sampled, run alone, among 7 and among 31 requests of mixed lengths: tokens and
log-probabilities have to be the same bits. So do the logits of a row, alone and in batches. Of an artifact that does
not promise it, the same is reported but not asked for. Exit status 1 if a promise is broken.
"""

from __future__ import annotations

import numpy as np

from tests.gpu import arguments
from tests.gpu.single_rows import neighbours
from warploom.runtime.artifact import Artifact, load
from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.llm import LLM
from warploom.runtime.sampling_params import SamplingParams

PROBES = (1, 17, 63, 130, 300)
NUM_TOKENS = 24


def request(rng: np.random.Generator, vocab: int, length: int, seed: int) -> tuple[list[int], SamplingParams]:
    """Random tokens; every second request is greedy."""
    params = SamplingParams(temperature=float(seed % 2), seed=seed, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=0)
    return rng.integers(3, vocab, length).tolist(), params


def differing(artifact: Artifact, llm: LLM) -> dict[str, int]:
    """How many probes answer otherwise in company than alone, by the size of the company."""
    rng = np.random.default_rng(5)
    vocab = artifact.manifest.vocab_size
    probes = [request(rng, vocab, length, seed) for seed, length in enumerate(PROBES)]
    alone = [llm.generate([prompt], params)[0] for prompt, params in probes]
    found = {}
    for company in (7, 31):
        count = 0
        for probe, expected in zip(probes, alone, strict=True):
            others = [request(rng, vocab, int(rng.integers(1, 400)), 100 + i) for i in range(company)]
            place = int(rng.integers(0, company + 1))
            requests = [*others[:place], probe, *others[place:]]
            answer = llm.generate([prompt for prompt, _ in requests], [params for _, params in requests])[place]
            count += answer.token_ids != expected.token_ids or answer.logprobs != expected.logprobs
        found[f"of {len(probes)} probes, others with {company} neighbours"] = count
    return found


def main() -> int:
    """Compare and report."""
    parser = arguments.parser(__doc__)
    parser.add_argument("artifact")
    path = parser.parse_args().artifact
    artifact = load(path)
    device = CudaDevice(artifact, max_tokens=512, max_seqs=32)
    cuda = artifact.target(device.target).cuda
    promised = cuda is not None and cuda.deterministic
    moved = {f"logits of a row of {rows} against alone": neighbours(artifact, device, rows) for rows in (8, 32)}
    with LLM(artifact, device=device) as llm:
        counts = differing(artifact, llm)
    broken = [name for name, count in counts.items() if count]
    broken += [name for name, move in moved.items() if move.noise or move.text]
    print(f"{path}: {device.target}, deterministic: {promised}")
    for name, value in [*counts.items(), *moved.items()]:
        print(f"  {name}: {value}")
    return int(promised and bool(broken))


if __name__ == "__main__":
    raise SystemExit(main())
