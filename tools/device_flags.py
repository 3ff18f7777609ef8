"""What runs an artifact, as command-line flags."""

from __future__ import annotations

import argparse


def add_device_flags(parser: argparse._ActionsContainer) -> None:
    """Add `--device` and `--threads` to a parser or a group of one."""
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="default: the GPU if the artifact and the machine have one"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU worker threads (default: one per core)")
