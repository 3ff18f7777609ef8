"""`warploom bench`: measurements of an artifact on this machine."""

from __future__ import annotations

import argparse

from warploom.tools import bench_step


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = "Measure an artifact on this machine."
    parser.epilog = "examples:\n  warploom bench step llama-8b --batch 1,32 --context 256 --prefill 4096\n"
    what = parser.add_subparsers(title="what to measure", metavar="WHAT", required=True)
    bench_step.configure(
        what.add_parser(
            "step",
            help="the time of single steps, whole and kernel by kernel",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
