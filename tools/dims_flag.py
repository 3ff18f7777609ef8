"""The flag `--dims T=512,R=1`."""

from __future__ import annotations

import argparse


def parse_dims(text: str) -> dict[str, int]:
    """`T=512,R=1` as a dict."""
    try:
        return {name.strip(): int(value) for name, value in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form T=512,R=1") from None
