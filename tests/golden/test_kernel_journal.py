"""The kernels of known models are those of the journal: a change of generated code is seen, and meant."""

from __future__ import annotations

import difflib

import pytest

from tests.golden.kernel_journal import FOLDER, describe, lines, models, plan_model
from warploom.codegen.cuda.architecture import ARCHITECTURES, CudaTarget
from warploom.codegen.cuda.resources import Resources


def sections(model: str) -> dict[str, list[tuple[str, str]]]:
    """Lines of a journal by architecture: what is planned, and the resources."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in (FOLDER / f"{model}.kernels.txt").read_text().splitlines():
        if line.startswith("sm_"):
            rows = found[line] = []
        elif line and not line.startswith("#"):
            planned, _, resources = line.rpartition(" | ")
            rows.append((planned, resources))
    return found


@pytest.mark.parametrize("model", models())
@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
def test_kernels_are_those_of_the_journal(model: str, arch: str) -> None:
    known = [planned for planned, _ in sections(model)[arch]]
    found = list(lines(plan_model(models()[model], arch), arch))
    difference = difflib.unified_diff(known, found, "journal", "generated", n=0, lineterm="")
    assert known == found, "\n".join(
        ["if this is meant: python -m tests.golden.kernel_journal, and commit the change", *difference]
    )


@pytest.mark.parametrize("model", models())
def test_every_kernel_fits_every_architecture(model: str) -> None:
    """The gate: registers, spills and shared memory against the limits; no kernel of a real model is exempt."""
    known = sections(model)
    assert list(known) == list(ARCHITECTURES)
    for arch, rows in known.items():
        assert len(rows) > 20
        for planned, text in rows:
            registers, spilled, shared, warps = (int(part.split()[0]) for part in text.split(","))
            resources = Resources(warps, shared, registers, spilled)
            assert describe(resources) == text
            assert resources.excess(CudaTarget(arch)) is None, planned
