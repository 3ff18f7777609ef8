"""How the cost model is judged and fitted: shares are counted right, and figures that are wrong are found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from warploom.passes.cost import DEVICES, Work, cost, device_from

BENCH = Path(__file__).resolve().parents[3] / "bench"

if TYPE_CHECKING:
    from bench.cost_rows import Row

FACTS = json.loads((DEVICES / "h100.json").read_text())
H100 = device_from(FACTS)


@pytest.fixture(autouse=True)
def _bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])


def row(work: Work, off: float = 0.0) -> Row:
    """A kernel that took longer than predicted by a part of that, `off`."""
    from cost_rows import Row

    return Row("model.bf16", "decode 1 at 256", f"{work.kind}_kernel", cost(work, H100).us * (1 + off), work)


def works() -> list[Work]:
    """Short and long kernels of several kinds."""
    return [Work(kind, size, 0) for kind in ("loops", "embed", "feed") for size in (0.0, 1e5, 1e7, 1e9)]


def test_the_share_is_that_of_kernels_within_15_percent() -> None:
    from cost_judgement import judge, worst

    rows = [row(work) for work in works()[:9]] + [row(work, 0.5) for work in works()[9:]]
    every, long, *kinds = judge(rows, H100)
    assert (every.number, every.close) == (12, 0.75)
    assert long.number == sum(one.us > 10 for one in rows)
    assert {kind.kernels_of: kind.close for kind in kinds} == {"embed": 1.0, "feed": 0.25, "loops": 1.0}
    assert [miss.error for miss in worst(rows, H100, 3)] == pytest.approx([1 / 1.5 - 1] * 3)


def test_layers_and_models_that_share_a_kernel_are_one_row() -> None:
    from cost_rows import distinct

    work, other = works()[:2]
    found = distinct([row(work), row(work, 1.0), row(work, 2.0), row(other)])
    assert [one.work for one in found] == [work, other]
    assert found[0].us == pytest.approx(2 * cost(work, H100).us, abs=0.01)


def test_a_wrong_figure_is_found() -> None:
    from cost_fit import fit

    fitted = fit(FACTS | {"launch_us": 2 * H100.launch_us}, [row(work) for work in works()])
    assert fitted["launch_us"] == pytest.approx(H100.launch_us, rel=0.1)
    assert fitted["read_bytes"] == H100.read_bytes, "what was measured by itself stays"


def test_the_plot_has_a_point_for_every_kernel() -> None:
    from cost_judgement import plot

    root = ElementTree.fromstring(plot({"fitted to": [row(work) for work in works()]}, H100))
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == len(works())


def test_both_sets_are_judged() -> None:
    """The models of one are not those of the other, and their rows are of its models."""
    from cost_model import ROWS
    from cost_models import FIT, HELD_OUT
    from cost_rows import read

    assert not FIT.keys() & HELD_OUT.keys()
    for models, path in zip((FIT, HELD_OUT), ROWS.values(), strict=True):
        if not path.exists():
            continue
        assert {one.model.rpartition(".")[0] for one in read(path)} <= models.keys()
