"""Flags that are numbers from 0, or from 1, on."""

from __future__ import annotations

import argparse
import math


def parse_count(text: str, least: int = 0) -> int:
    """`7`: a whole number that is not negative."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
    return number


def parse_positive(text: str) -> int:
    """`7`: a whole number above 0."""
    return parse_count(text, 1)


def parse_bound(text: str) -> float:
    """`0.02`: a finite number that is not negative."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number from 0 on")
    return number
