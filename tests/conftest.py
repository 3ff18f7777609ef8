"""What every test shares: hypothesis profiles and an MLIR context that knows the dialect.

Profiles: `ci` (when the variable CI is set) draws the same examples every time; `dev` explores. The variable
WARPLOOM_EXAMPLES sets the number of examples of tests that do not state their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import mlir.ir as mlir
import pytest
from hypothesis import HealthCheck, settings

from warploom.ir.context import new_context

_SHARED: dict[str, Any] = {
    "deadline": None,  # two loaded cores say nothing of our speed
    "max_examples": int(os.environ.get("WARPLOOM_EXAMPLES", "30")),
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    "print_blob": True,
}
settings.register_profile("ci", derandomize=True, database=None, **_SHARED)
settings.register_profile("dev", **_SHARED)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture
def wl() -> Iterator[mlir.Context]:
    """A fresh context with the dialect, entered together with an unknown location."""
    with new_context() as context, mlir.Location.unknown():
        yield context
