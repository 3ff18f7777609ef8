"""The cost model: its parts, its devices, and how well it predicts what was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from warploom.errors import CompileError
from warploom.passes.cost import Work, cost, device_of, devices, saved_us
from warploom.passes.fuse_heroes import PHASES

H100 = device_of("cuda:sm_90")
CLOSE, SHARE = 0.15, 0.8


def test_predictions_are_close_to_what_was_measured_on_an_h100() -> None:
    rows: list[Mapping[str, Any]] = json.loads(Path(__file__).with_name("h100_llama_8b.json").read_text())
    assert len(rows) > 80
    errors = [cost(Work(row["kind"], row["bytes"], row["flops"]), H100).us / row["us"] - 1 for row in rows]
    good = sum(abs(error) <= CLOSE for error in errors)
    assert good / len(rows) >= SHARE


@pytest.mark.parametrize(
    ("work", "bound"),
    [
        (Work("loops", 512, 64), "launch"),
        (Work("linear", 235e6, 235e6), "memory"),
        (Work("linear", 386e6, 962e9), "compute"),
        (Work("sample", 66e6, 328e6), "compute"),
    ],
)
def test_what_bounds_a_kernel_is_said(work: Work, bound: str) -> None:
    found = cost(work, H100)
    assert found.bound == bound
    assert f"{found.us:.1f} us" in found.explain()
    assert f"({bound} bound)" in found.explain()


def test_more_work_never_takes_less_time() -> None:
    for device in devices():
        for kind in ("linear", "attention", "loops", "sample"):
            times = [cost(Work(kind, size, 4 * size), device).us for size in (0, 1e3, 1e6, 1e8, 1e10)]
            assert times == sorted(times)


def test_products_of_experts_and_latents_run_on_matrix_units() -> None:
    """Kinds that were not measured by themselves are like a measured one; a new kind of product must say which."""
    kinds = {kind for rules in PHASES for op, (kind, _) in rules.items() if op is not None and "linear" in op.name}
    for kind in (*kinds, "latent_attention"):
        found = cost(Work(kind, 1e6, 1e12), H100)
        assert found.compute_us < 1e6 * 1e12 / H100.vector_flops / 10, kind
    assert cost(Work("expert_mlp", 4e6, 4e6), H100) == cost(Work("linear", 4e6, 4e6), H100)


def test_one_launch_saves_over_two_what_it_does_not_write_and_read() -> None:
    norm, product = Work("rms_norm", 16384, 16384), Work("linear", 50e6, 50e6)
    fused = Work("linear", 50e6, 50e6 + 16384)
    assert saved_us([norm, product], fused, H100) == pytest.approx(H100.launch_us, rel=0.05)
    assert saved_us([norm, product], Work("linear", 150e6, 50e6), H100) < 0, "reading thrice is no gain"


def test_targets_have_devices() -> None:
    assert device_of("cuda:sm_90").name != device_of("cpu").name
    assert device_of("cuda:sm_80") == H100, "the only GPU that was measured stands for the others"
    with pytest.raises(CompileError, match="no device was measured for tpu"):
        device_of("tpu")
