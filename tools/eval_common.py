"""What the evaluations share: flags, opening the artifact, reading inputs, printing results."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from warploom.errors import InvalidRequestError
from warploom.runtime.artifact import load
from warploom.tools.device_flags import add_device_flags
from warploom.tools.teacher_forcing import Teacher
from warploom.tools.text_files import read_text

_Row = TypeVar("_Row", bound=msgspec.Struct)


def add_common_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every evaluation has."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_device_flags(parser)


def open_teacher(args: argparse.Namespace, max_context: int | None = None) -> Teacher:
    """Open the artifact of a parsed command line, with `max_context` or what the model allows if that is less."""
    artifact = load(args.artifact)
    if max_context is not None:
        max_context = min(max_context, artifact.manifest.max_context)
    return Teacher(artifact, device=args.device, threads=args.threads, max_context=max_context)


def read_rows(path: str, row: type[_Row]) -> Iterator[_Row]:
    """Yield the rows of a JSON Lines file.

    Raises:
        InvalidRequestError: a line is not such a row; says which line.
    """
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield msgspec.json.decode(line, type=row)
        except msgspec.DecodeError as error:
            raise InvalidRequestError(
                f"Line {number} of {path} is not a row of this task",
                expected=f"a JSON object with {', '.join(field.name for field in msgspec.structs.fields(row))}",
                found=str(error),
            ) from error


def print_result(result: msgspec.Struct, as_json: bool) -> None:
    """Print a result as one JSON object, or as lines of names and values."""
    if as_json:
        print(msgspec.json.encode(result).decode())
        return
    values = msgspec.to_builtins(result)
    width = max(map(len, values))
    for name, value in values.items():
        print(f"{name:<{width}}  {value:.6g}" if isinstance(value, float) else f"{name:<{width}}  {value}")
