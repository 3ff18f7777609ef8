"""What the evaluations share: flags, opening the artifact, reading inputs, printing results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from warploom.errors import InvalidRequestError
from warploom.runtime.artifact import load
from warploom.tools.teacher_forcing import Teacher

_Row = TypeVar("_Row", bound=msgspec.Struct)


def add_device_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every evaluation has."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the GPU if there is one")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU worker threads (default: one per core)")


def open_teacher(args: argparse.Namespace, max_context: int | None = None) -> Teacher:
    """Open the artifact of a parsed command line, with `max_context` or what the model allows if that is less."""
    artifact = load(args.artifact)
    if max_context is not None:
        max_context = min(max_context, artifact.manifest.max_context)
    return Teacher(artifact, device=args.device, threads=args.threads, max_context=max_context)


def read_text(path: str) -> str:
    """Return the text of a file, or of standard input for "-".

    Raises:
        InvalidRequestError: there is no such file, or it is not UTF-8.
    """
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        return data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"The file {path} cannot be read", expected="UTF-8 text", found=str(error)) from error


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
