"""The arguments of commands that serve with speculative decoding."""

from __future__ import annotations

import argparse

from warploom.errors import InvalidRequestError
from warploom.runtime.speculative_config import SpeculativeConfig


def add_speculation(parser: argparse._ActionsContainer) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--speculation", metavar="ngram|ARTIFACT",
        help="draft tokens from what was said before, or with a smaller model of the same vocabulary; answers stay "
        "the same",
    )  # fmt: skip
    parser.add_argument(
        "--num-speculative-tokens", type=int, metavar="K", help="most drafts of a request in a step (default: 5)"
    )


def speculation_of(args: argparse.Namespace) -> SpeculativeConfig | None:
    """Return what was asked for; InvalidRequestError if it is not possible."""
    name, number = args.speculation, args.num_speculative_tokens
    if name is None:
        if number is not None:
            raise InvalidRequestError(
                "--num-speculative-tokens says how many tokens are drafted, but not how",
                expected="--speculation ngram, or --speculation ARTIFACT",
            )
        return None
    return SpeculativeConfig.named(name, number)
