"""`warploom bench`: measurements of an artifact on this machine."""

from __future__ import annotations

import argparse

from warploom.tools import bench_offline, bench_serve, bench_startup, bench_step

_WHAT = {
    "step": (bench_step, "the time of single steps, whole and kernel by kernel"),
    "offline": (bench_offline, "tokens per second when all requests are there at once"),
    "serve": (bench_serve, "what users see while requests arrive over time"),
    "startup": (bench_startup, "seconds from the start of a process to its first token"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = "Measure an artifact on this machine."
    parser.epilog = "examples:\n  warploom bench step llama-8b --batch 1,32 --context 256 --prefill 4096\n"
    what = parser.add_subparsers(title="what to measure", metavar="WHAT", required=True)
    for name, (module, summary) in _WHAT.items():
        module.configure(what.add_parser(name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter))
