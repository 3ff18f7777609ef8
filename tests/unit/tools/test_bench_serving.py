"""The benchmarks of serving: loads are what their names say, and runs count every token."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from tests.runtime_fakes import FakeDevice, fake_artifact
from warploom.errors import InvalidRequestError
from warploom.tools import bench_offline
from warploom.tools.cli import main
from warploom.tools.latency import spread
from warploom.tools.timed_device import TimedStep
from warploom.tools.workload import Load, make_work, parse_load


def test_loads_are_read_by_their_names() -> None:
    assert parse_load("128/1024x512") == Load("128/1024", (128, 1024), 512)
    assert parse_load("sharegpt x 10") == Load("sharegpt", None, 10)
    for wrong in ("128", "a/bx3", "1/2xy", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match="not of the form"):
            parse_load(wrong)


def test_fixed_lengths_are_exact_and_the_same_each_time() -> None:
    first, again = (make_work(parse_load("5/7x3"), 100, 64, temperature=0, seed=1) for _ in range(2))
    assert first == again
    assert [(len(one.prompt), one.params.max_tokens, one.params.ignore_eos) for one in first] == [(5, 7, True)] * 3
    with pytest.raises(InvalidRequestError, match="does not fit"):
        make_work(parse_load("5/70x3"), 100, 64, temperature=0, seed=1)


def test_chat_like_lengths_have_sharegpt_s_means() -> None:
    work = make_work(parse_load("sharegptx4000"), 100, 4096, temperature=0, seed=0)
    assert np.mean([len(one.prompt) for one in work]) == pytest.approx(215, rel=0.15)
    assert np.mean([one.params.max_tokens or 0 for one in work]) == pytest.approx(198, rel=0.15)


def test_spread_of_nothing_is_zero() -> None:
    assert spread([]).p99 == 0
    assert (spread([1.0, 3.0]).mean, spread([1.0, 3.0]).p50) == (2, 2)


def test_offline_counts_every_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = fake_artifact(tmp_path / "a")

    def open_fake(*_: object) -> FakeDevice:
        return FakeDevice(num_pages=100, vocab_size=artifact.manifest.vocab_size)

    monkeypatch.setattr(bench_offline, "open_device", open_fake)
    command = ["bench", "offline", str(artifact.path), "--load", "9/5x6", "--load", "3/2x2"]
    assert main([*command, "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["loads"]
    assert (first["requests"], second["requests"]) == (6, 2)
    assert first["output_tokens_per_second"] * first["seconds"] == pytest.approx(30)
    assert first["total_tokens_per_second"] * first["seconds"] == pytest.approx(84)
    assert first["ttft"]["p50"] <= first["ttft"]["p99"]
    assert main(command) == 0
    assert "9/5" in capsys.readouterr().out


def test_steps_are_summed_up_by_what_they_computed() -> None:
    steps = [TimedStep(3, 3, 1.0, 0.1, 0.01), TimedStep(4, 4, 3.0, 0.3, 0.01), TimedStep(4, 100, 2.0, 0.0, 0.01)]
    decode, prompt = bench_offline.step_rows(steps)
    assert (decode.steps, decode.number, decode.each, decode.exposed) == ("decode <= 4", 2, 2.0, pytest.approx(0.2))
    assert (prompt.steps, prompt.of_all) == ("with prompts, <= 128 tokens", pytest.approx(1 / 3))
