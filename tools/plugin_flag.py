"""The flag `--plugin PACKAGE` of commands that read programs or compile."""

from __future__ import annotations

import argparse


def add_plugin_flag(parser: argparse.ArgumentParser) -> None:
    """Add it to a parser."""
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="PACKAGE", help="extend the compiler; may repeat"
    )
