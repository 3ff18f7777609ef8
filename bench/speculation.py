"""Speculative decoding on real text: tokens per second with and without, and whether the answers are equal.

    python bench/speculation.py ARTIFACT [--draft SMALLER] [--device cpu|cuda] [--tokens 100] [--runs 3]

Two prompts, one after the other as in a chat of one user: one asks for a text again word by word, where n-grams find
nearly everything, one for a story, where they find nothing and a smaller model helps. Medians of the runs, of the time
between the first and the last token; the ways of decoding take turns. Exit status 1 if an answer differs; on a GPU,
that none does is to be expected of `--deterministic` artifacts only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from statistics import median

from warploom.runtime.llm import LLM
from warploom.runtime.output import Completion
from warploom.runtime.sampling_params import SamplingParams
from warploom.runtime.speculative_config import SpeculativeConfig

_MINUTES = (
    "The committee on municipal water supply met on Tuesday, 14 March, in the town hall. Present were Ms. Adeyemi "
    "(chair), Mr. Kowalski, Dr. Lindqvist and Ms. Okafor. The chair opened the meeting at 18:05. The minutes of the "
    "previous meeting were approved without changes. Mr. Kowalski reported that the pumping station at Harrow Lane had "
    "been out of service for eleven days in February, and that repairs had cost 41,300 euros, of which 12,000 were "
    "covered by insurance."
)
_PROMPTS = {
    "copy": f"Repeat the following text exactly, word by word:\n\n{_MINUTES}",
    "story": "Write a short story about a lighthouse keeper.",
}


def configs(draft: str | None, number: int) -> Iterator[tuple[str, SpeculativeConfig | None]]:
    """The ways to decode."""
    yield "plain", None
    yield "ngram", SpeculativeConfig(num_speculative_tokens=number)
    if draft is not None:
        yield "draft model", SpeculativeConfig(model=draft, num_speculative_tokens=number)


def answers(
    llms: Mapping[str, LLM], tokens: int, runs: int
) -> Iterator[tuple[str, float, dict[str, list[Completion]]]]:
    """Every prompt, greedy and sampled: what each way answered in all runs. They take turns, as the machine may be slow
    for a while.
    """
    for llm in llms.values():
        llm.generate([[1] * 8], SamplingParams(max_tokens=4))
    for name, text in _PROMPTS.items():
        for temperature in (0.0, 0.8):
            params = SamplingParams(temperature=temperature, seed=7, max_tokens=tokens, ignore_eos=True)
            found: dict[str, list[Completion]] = {way: [] for way in llms}
            for _ in range(runs):
                for way, llm in llms.items():
                    found[way].append(llm.chat([{"role": "user", "content": text}], params))
            yield name, temperature, found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--draft", metavar="SMALLER")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--num-speculative-tokens", type=int, default=5)
    args = parser.parse_args()
    are_equal = True
    with ExitStack() as stack:
        llms = {
            way: stack.enter_context(LLM(args.artifact, device=args.device, speculation=config))
            for way, config in configs(args.draft, args.num_speculative_tokens)
        }
        for prompt, temperature, found in answers(llms, args.tokens, args.runs):
            before = median(one.metrics.tokens_per_second for one in found["plain"])
            for way, made in found.items():
                rate = median(one.metrics.tokens_per_second for one in made)
                last = made[-1].metrics
                equal = all(one.token_ids == found["plain"][0].token_ids for one in made)
                are_equal &= equal
                print(
                    f"{prompt:5}  temperature {temperature:.1f}  {way:11}  {rate:7.1f} tokens/s  {rate / before:.2f}x  "
                    f"accepted {last.num_accepted_tokens:3} of {last.num_draft_tokens:3}  "
                    f"{'equal' if equal else 'DIFFERENT'}",
                    flush=True,
                )
    return 0 if are_equal else 1


if __name__ == "__main__":
    sys.exit(main())
