"""The properties of passes catch bugs: every planted one, see `mutants`."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.property.corner_motifs import CORNERS
from tests.property.format_motifs import FORMATS
from tests.property.model_graphs import model_programs
from tests.property.motifs import MOTIFS
from tests.property.mutants import MUTANTS
from tests.property.pass_cases import FORMAT_CASES
from tests.property.pass_properties import PassCase, check_pass
from tests.property.programs import Program, programs

EXAMPLES = 800
CORNER_PROGRAMS = [programs(ops=(), motifs=(corner,), max_steps=2) for corner in CORNERS]  # as many of each
PROGRAMS = st.one_of(*CORNER_PROGRAMS, programs(motifs=MOTIFS), model_programs())
FORMAT_PROGRAMS = programs(ops=(), motifs=FORMATS, max_steps=2)


def complaint(case: PassCase) -> str | None:
    """What is wrong with a pass, on one of many programs; the same programs every time."""

    drawn = FORMAT_PROGRAMS if case in FORMAT_CASES.values() else PROGRAMS

    @settings(max_examples=EXAMPLES, phases=[Phase.generate], database=None, derandomize=True, deadline=None)
    @given(program=drawn)
    def check(program: Program) -> None:
        check_pass(case, program)

    try:
        check()
    except Exception as error:  # a pass that crashes is wrong too
        return f"{type(error).__name__}: {error}"
    return None


@pytest.mark.parametrize("name", MUTANTS)
def test_no_planted_bug_survives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name].plant(monkeypatch)
    assert complaint(MUTANTS[name].case) is not None, f"{name} survives {EXAMPLES} programs"


def test_there_are_enough_mutants_of_every_pass() -> None:
    assert len(MUTANTS) >= 12
