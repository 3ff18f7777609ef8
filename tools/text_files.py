"""Texts and JSON as the command line names them: a file, or `-` for standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from warploom.errors import InvalidRequestError

T = TypeVar("T")


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


def read_json(path: str | Path, what: str, as_type: type[T]) -> T:
    """Return what a JSON file holds.

    Args:
        what: it is for people, such as `a tuning table`.

    Raises:
        InvalidRequestError: it cannot be read, or holds something else.
    """
    try:
        return msgspec.json.decode(read_text(str(path)), type=as_type)
    except msgspec.DecodeError as error:
        raise InvalidRequestError(f"The file {path} is not {what}", expected="JSON", found=str(error)) from error
