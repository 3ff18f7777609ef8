"""On a GPU: what verifying drafts costs and saves, and whether answers stay the same.

    python -m tests.gpu.run_speculation ARTIFACT [--requests 1 8] [--tokens 96] [--itself] [--json FILE]

Answers random prompts plainly, then drafts those very answers, all right or with every n-th token wrong, so that the
acceptance is known; then with n-grams, then with itself as its draft model. Prints the time per output token and per
step, and how many answers are equal. Kernels choose how they split their work by the shape of a step, so logits differ
in their last bits between any two ways of batching: where an answer parts, the gap between the two likeliest tokens is
printed, and plain decoding in another batch is compared in the same way.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from tests.gpu import arguments
from warploom.runtime.artifact import load
from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.draft_model import Drafter
from warploom.runtime.engine import Engine
from warploom.runtime.request import Request, TokenLogprobs
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.speculative_config import SpeculativeConfig

Answers = list[tuple[list[int], list[TokenLogprobs]]]


class Told:
    """Drafts known answers, with every n-th token of an answer wrong."""

    def __init__(self, answers: dict[int, list[int]], every: int) -> None:
        self._answers, self._every = answers, every

    def can_draft(self, request: Request) -> bool:
        """It always can."""
        return True

    def draft(self, wanted: Sequence[tuple[Request, int]]) -> list[list[int]]:
        """Drafts by the request's seed, which names it."""
        return [self._of(request, number) for request, number in wanted]

    def _of(self, request: Request, number: int) -> list[int]:
        begin = request.num_output_tokens
        tokens = self._answers[request.seed][begin : begin + number]
        return [token ^ (place % self._every == self._every - 1) for place, token in enumerate(tokens, begin)]


@dataclass(frozen=True)
class Row:
    """One way to answer. Times in ms; `equal` of the answers, and where the others part: place and gap."""

    way: str
    requests: int
    ms_per_token: float
    ms_per_step: float
    steps: int
    tokens_per_step: float
    accepted: str
    equal: str
    parts: str


def answer(engine: Engine, jobs: Sequence[tuple[list[int], SamplingParams]]) -> Answers:
    """Run all requests to their ends."""
    requests = [engine.new_request(prompt, params) for prompt, params in jobs]
    found: Answers = [([], []) for _ in requests]
    places = {request.id: place for place, request in enumerate(requests)}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for output in engine.step():
            tokens, logprobs = found[places[output.request_id]]
            tokens += output.token_ids
            logprobs += output.logprobs or ()
    return found


def parting(one: Answers, other: Answers) -> tuple[int, list[str]]:
    """How many answers are equal, and where the others part."""
    parts = []
    for (tokens, logprobs), (others, _) in zip(one, other, strict=True):
        apart = next((i for i, pair in enumerate(zip(tokens, others, strict=True)) if pair[0] != pair[1]), None)
        if apart is not None:
            top = logprobs[apart].top
            parts.append(f"{apart}: {top[0][1] - top[1][1]:.4f}")
    return len(one) - len(parts), parts


def main() -> None:
    """Measure and print."""
    parser = arguments.parser(__doc__)
    parser.add_argument("artifact")
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--drafts", type=int, nargs="+", default=[3, 5, 7])
    parser.add_argument("--itself", action="store_true", help="the model drafts for itself, too")
    parser.add_argument("--json")
    args = parser.parse_args()
    artifact = load(args.artifact)
    device = CudaDevice(artifact, max_seqs=32, max_tokens=2048, num_drafts=max(args.drafts), kv_bytes=4 << 30)
    vocab, context = artifact.manifest.vocab_size, min(4096, artifact.manifest.max_context)

    drafter = None
    if args.itself:
        drafter = Drafter(CudaDevice(artifact, max_seqs=32, max_tokens=2048, num_drafts=0, kv_bytes=2 << 30), context)

    def engine(drafts: int, proposer: Told | None = None, drafter: Drafter | None = None) -> Engine:
        model = args.artifact if drafter else None
        config = SpeculativeConfig(model=model, num_speculative_tokens=drafts) if drafts else None
        made = Engine(
            device, vocab_size=vocab, max_context=context, eos_token_ids=[], speculation=config, drafter=drafter
        )
        if proposer is not None and made._speculator is not None:
            made._speculator._proposer = proposer
        return made

    rows: list[Row] = []
    for number in args.requests:
        rng = np.random.default_rng(number)
        piece = [rng.integers(3, vocab, 48).tolist() for _ in range(number)]
        for temperature in (0.0, 1.0):
            params = SamplingParams(temperature=temperature, max_tokens=args.tokens, ignore_eos=True)
            jobs = [(tokens * 4, replace(params, seed=i)) for i, tokens in enumerate(piece)]
            plain = answer(engine(0), [(prompt, replace(one, logprobs=2)) for prompt, one in jobs])
            told = {i: tokens for i, (tokens, _) in enumerate(plain)}
            ways: list[tuple[str, Engine]] = [("plain", engine(0))]
            for drafts in args.drafts:
                ways.append((f"{drafts} drafts, all right", engine(drafts, Told(told, 1 << 30))))
                ways.append((f"{drafts} drafts, 1 in 5 wrong", engine(drafts, Told(told, 5))))
            ways.append(("ngram", engine(5)))
            if drafter is not None:
                ways.append(("3 drafts of its own", engine(3, drafter=drafter)))
            for way, made in ways:
                began = time.perf_counter()
                found = answer(made, jobs)
                seconds = time.perf_counter() - began
                stats = made.stats()
                equal, parts = parting(plain, found)
                rows.append(
                    Row(
                        f"t {temperature:.0f} {way}",
                        number,
                        1e3 * seconds / args.tokens,
                        1e3 * stats.step_seconds / stats.steps,
                        stats.steps,
                        stats.generation_tokens / stats.steps / number,
                        f"{stats.accepted_tokens}/{stats.draft_tokens}",
                        f"{equal}/{number}",
                        ", ".join(parts),
                    )
                )
                print(" | ".join(f"{v:.3f}" if isinstance(v, float) else str(v) for v in asdict(rows[-1]).values()))
            alone = [answer(engine(0), [job])[0] for job in jobs]
            equal, parts = parting(plain, alone)
            print(f"plain, one by one: equal {equal}/{number}; {', '.join(parts)}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump([asdict(row) for row in rows], file)


if __name__ == "__main__":
    main()
