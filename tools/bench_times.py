"""Kernel times as `warploom bench step --json` prints them."""

from __future__ import annotations

import json
from collections.abc import Mapping
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


def step_dims(step: str, page_size: int) -> dict[str, int]:
    """Return the dims of a step as `bench step` names it: `decode 8 at 256`, `prefill 1024`."""
    kind, size, *rest = step.split()
    tokens, context = int(size), int(rest[-1]) if rest else int(size)
    rows, pages = tokens if kind == "decode" else 1, -(-context // page_size)
    return {"T": tokens, "S": rows, "R": rows, "P": pages, "C": rows * pages}


def step_timed(times: Mapping[str, Mapping[str, float]], given: Mapping[str, int], page_size: int) -> str:
    """Return the first step of those that were timed which has the dims that are given.

    Raises:
        InvalidRequestError: none has.
    """
    for step in times:
        dims = step_dims(step, page_size)
        if all(dims.get(name, value) == value for name, value in given.items()):
            return step
    raise InvalidRequestError(
        "No step with these dims was timed",
        expected=f"dims of one of: {', '.join(times) or 'no steps'}",
        found=", ".join(f"{name}={value}" for name, value in given.items()),
    )
