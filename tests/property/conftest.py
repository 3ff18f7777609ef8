"""Long runs that go on where they were stopped: see `tools/nightly`.

WARPLOOM_DONE names a file. Tests that are listed in it are left out; those that pass are added to it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DONE = Path(os.environ["WARPLOOM_DONE"]) if "WARPLOOM_DONE" in os.environ else None


def _done() -> set[str]:
    return set(DONE.read_text().splitlines()) if DONE is not None and DONE.exists() else set()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what has passed."""
    done = _done()
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in done])
    items[:] = [item for item in items if item.nodeid not in done]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note what passes, once: workers of xdist report to the process that started them."""
    if DONE is not None and report.when == "call" and report.passed and "PYTEST_XDIST_WORKER" not in os.environ:
        with DONE.open("a") as file:
            file.write(f"{report.nodeid}\n")
