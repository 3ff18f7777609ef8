"""`SamplingParams` as command-line flags: one flag per field, and only what is given overrules the model's defaults."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from warploom.errors import InvalidRequestError
from warploom.runtime.sampling_params import SamplingParams
from warploom.tools.guide_flags import add_guide_flags, guide_of


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags. None means not given; the values themselves are checked by `SamplingParams`."""
    group = parser.add_argument_group("sampling", "What is not given is as the model's authors recommend.")
    group.add_argument("--temperature", type=float, metavar="X", help="0: always the likeliest token; 1: as trained")
    group.add_argument("--top-k", type=int, metavar="K", help="sample among the K likeliest tokens; 0: all")
    group.add_argument("--top-p", type=float, metavar="P", help="sample among the likeliest tokens of total mass P")
    group.add_argument("--min-p", type=float, metavar="P", help="drop tokens less likely than P times the likeliest")
    group.add_argument("--repetition-penalty", type=float, metavar="X", help="above 1: avoid tokens seen before")
    group.add_argument("--presence-penalty", type=float, metavar="X", help="subtracted once for tokens in the answer")
    group.add_argument("--frequency-penalty", type=float, metavar="X", help="subtracted per occurrence in the answer")
    group.add_argument("--seed", type=int, metavar="N", help="same seed, same answer; default: random")
    group.add_argument(
        "--logit-bias", type=_bias, action=_Merge, metavar="TOKEN=X", help="add X (or -inf) to a token's logit"
    )
    group.add_argument(
        "--bad-word", dest="bad_words", action="append", metavar="TEXT", help="never write TEXT; may be repeated"
    )
    group.add_argument(
        "--allowed-token-id", dest="allowed_token_ids", type=int, action="append", metavar="TOKEN",
        help="choose no other tokens; may be repeated",
    )  # fmt: skip
    group.add_argument(
        "--show-special-tokens", dest="skip_special_tokens", action="store_false", default=None,
        help="show special tokens by their names",
    )  # fmt: skip
    limits = parser.add_argument_group("length")
    limits.add_argument("--max-tokens", type=int, metavar="N", help="most tokens of the answer (default: 256)")
    limits.add_argument("--min-tokens", type=int, metavar="N", help="least tokens of the answer")
    limits.add_argument("--stop", action="append", metavar="TEXT", help="end the answer before TEXT; may be repeated")
    limits.add_argument(
        "--stop-token-id",
        dest="stop_token_ids",
        type=int,
        action="append",
        metavar="TOKEN",
        help="end the answer at this token id; may be repeated",
    )
    limits.add_argument("--ignore-eos", action="store_true", default=None, help="go on past the model's end token")
    add_guide_flags(parser)


def sampling_params(args: argparse.Namespace, defaults: SamplingParams) -> SamplingParams:
    """Return `defaults` with the flags that were given.

    Raises:
        InvalidRequestError: a value is out of range; a file cannot be read; or flags choose among tokens while the
            defaults are greedy, so that they would do nothing.
    """
    flags = {field.name: getattr(args, field.name, None) for field in fields(SamplingParams)}
    flags["guide"] = guide_of(args)
    given = {name: value for name, value in flags.items() if value is not None}
    params = replace(defaults, **given)
    idle = [f"--{name.replace('_', '-')}" for name in ("top_k", "top_p", "min_p") if name in given]
    if idle and params.temperature == 0 and "temperature" not in given:
        raise InvalidRequestError(
            f"{' and '.join(idle)} would do nothing: this model's own default is to take the likeliest token",
            fix="add --temperature 1, or another above 0",
        )
    return params


def _bias(text: str) -> dict[int, float]:
    token, _, value = text.partition("=")
    try:
        return {int(token): float(value)}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form TOKEN=NUMBER, as 42=-5 or 42=-inf") from None


class _Merge(argparse.Action):
    """Joins the dicts of a repeated flag."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        before: Mapping[int, float] = getattr(namespace, self.dest) or {}
        setattr(namespace, self.dest, {**before, **values})
