"""Flags that are numbers from 0 on."""

from __future__ import annotations

import argparse
import math


def parse_count(text: str) -> int:
    """`7`: a whole number that is not negative."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return number


def parse_bound(text: str) -> float:
    """`0.02`: a finite number that is not negative."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number from 0 on")
    return number
