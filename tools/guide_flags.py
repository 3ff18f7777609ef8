"""The form of an answer as command-line flags."""

from __future__ import annotations

import argparse

from warploom.runtime.guide import Guide
from warploom.tools.text_files import read_text


def add_guide_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags, of which one may be given."""
    group = parser.add_argument_group(
        "form of the answer", "Only tokens that fit are chosen; needs pip install 'warploom[serve]'."
    )
    one = group.add_mutually_exclusive_group()
    one.add_argument("--json-schema", metavar="FILE", help="a JSON value that fits a schema")
    one.add_argument("--grammar", metavar="FILE", help="a text of a Lark grammar, as llguidance takes it")
    one.add_argument("--regex", metavar="PATTERN", help="a text that a regular expression matches, in Rust's syntax")
    one.add_argument("--choice", action="append", metavar="TEXT", help="one of these texts; repeat it")


def guide_of(args: argparse.Namespace) -> Guide | None:
    """Return the guide of a parsed command line, or None if it gives none.

    Raises:
        InvalidRequestError: a file cannot be read, or the form is empty or too large.
    """
    if args.json_schema is not None:
        return Guide("json_schema", read_text(args.json_schema))
    if args.grammar is not None:
        return Guide("grammar", read_text(args.grammar))
    if args.regex is not None:
        return Guide("regex", args.regex)
    return None if args.choice is None else Guide("choice", choices=tuple(args.choice))
