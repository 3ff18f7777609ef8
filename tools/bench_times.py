"""Kernel times as `warploom bench step --json` prints them."""

from __future__ import annotations

import json
from pathlib import Path

from warploom.errors import InvalidRequestError


def kernel_times(path: Path) -> dict[str, dict[str, float]]:
    """Return microseconds of one launch, by step (`decode 1 at 256`) and kernel.

    Raises:
        InvalidRequestError: the file is not what `bench step` wrote.
    """
    try:
        steps = json.loads(path.read_text())["kernels"]
        return {step: {row["kernel"]: 1e6 * row["each"] for row in rows} for step, rows in steps.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequestError(
            f"{path} holds no kernel times", expected="what `warploom bench step --json` prints", found=repr(error)
        ) from error
