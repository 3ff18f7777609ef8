"""JSON objects beside the weights: config.json, generation_config.json, tokenizer_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from warploom.errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`.

    Raises:
        CheckpointError: the file cannot be read, or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise _malformed(path, str(error)) from error
    if not isinstance(value, dict):
        raise _malformed(path, type(value).__name__)
    return value


def read_json_if_present(path: Path) -> dict[str, Any]:
    """The object in `path`, empty when there is no such file; errors as `read_json`."""
    return read_json(path) if path.is_file() else {}


def _malformed(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path} cannot be read as JSON", expected="a JSON object", found=found, fix="download the file again"
    )
