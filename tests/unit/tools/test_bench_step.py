"""Steps made for measuring, and the plot of where their time goes."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.cuda_fake_model import cuda_artifact, fake_cuda
from tests.runtime_fakes import VOCAB_SIZE, FakeDevice
from tests.unit.tools.conftest import RunCLI
from warploom.errors import EngineError
from warploom.passes.blocks import Product
from warploom.passes.cost import Work, device_of
from warploom.runtime.cuda import profile
from warploom.runtime.cuda.device import CudaDevice
from warploom.tools import bench_step
from warploom.tools.bench_plot import plot
from warploom.tools.cli import main
from warploom.tools.step_limits import Limits
from warploom.tools.synthetic import ragged_batch


def test_synthetic_steps_are_steps_that_a_device_takes() -> None:
    device = FakeDevice(num_pages=64, page_size=4, max_tokens=16)
    batch = ragged_batch(device, VOCAB_SIZE, [3, 1, 6], [3, 1, 6], temperature=1.0, seed=4)
    output = device.execute(batch)  # checks shapes, positions and page table
    assert len(output.tokens) == 3
    later = ragged_batch(device, VOCAB_SIZE, [1, 2], [9, 12], temperature=0.0, seed=5)
    assert later.positions.tolist() == [8, 10, 11]
    assert len(set(later.page_table[later.page_table > 0].tolist())) == np.count_nonzero(later.page_table)


@pytest.mark.parametrize("flag", ["--repeats=0", "--context=0", "--context=-1", "--batch=1,0", "--prefill=0"])
def test_steps_of_nothing_are_wrong_usage(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "step", "artifact", flag])
    assert f"argument {flag.partition('=')[0]}" in capsys.readouterr().err


def test_a_step_that_does_not_fit_in_the_cache_is_refused() -> None:
    with pytest.raises(EngineError, match="too few pages"):
        ragged_batch(FakeDevice(num_pages=2, page_size=4), VOCAB_SIZE, [1], [100], temperature=1.0, seed=0)


def test_the_limit_is_the_slower_of_memory_and_arithmetic() -> None:
    limits = Limits(copy_bytes=2.0, read_bytes=4.0, flops={"bf16": 8.0, "f8e4m3": 16.0})
    assert limits.seconds(Work("linear", 8, 8)) == 2.0
    assert limits.seconds(Work("linear", 8, 32)) == 4.0
    assert limits.seconds(Work("linear", 8, 32, Product(1, 4, 4, "f8e4m3"))) == 2.0, "FP8 is twice as fast"
    assert limits.seconds(Work("linear", 8, 32, Product(1, 4, 4, "i4"))) == 4.0, "others are multiplied as bf16"
    assert Limits(2.0, 4.0, {}).seconds(Work("linear", 8, 32)) == 2.0


def test_plot_shows_every_kernel_in_proportion() -> None:
    root = ElementTree.fromstring(plot({"decode <1>": [("linear", 3e-3), ("attention", 1e-3)]}))
    pieces = [rect for rect in root.iter("{http://www.w3.org/2000/svg}rect") if len(rect)]
    widths = [float(rect.attrib["width"]) for rect in pieces]
    assert widths[0] == pytest.approx(3 * widths[1], rel=1e-2)
    assert "decode <1>: 4.00 ms" in "".join(root.itertext())


def test_steps_on_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "_COPIED_BYTES", 1 << 20)
    artifact = cuda_artifact(tmp_path / "model")
    device = CudaDevice(artifact, api=fake_cuda(total_bytes=1 << 27), kv_bytes=20_000)
    monkeypatch.setattr(bench_step, "open_device", lambda *_: device)
    assert main(["bench", "step", str(artifact.path), "--batch", "1,3", "--context", "9", "--prefill", "7"]) == 0
    printed = capsys.readouterr().out
    assert "Fake GPU, cuda:sm_90: copy 0.01 TB/s" in printed
    assert [line.split("  ")[0] for line in printed.splitlines()[3:6]] == [
        "decode 1 at 9",
        "decode 3 at 9",
        "prefill 7",
    ]
    _, one, three, _ = (section.split() for section in printed.split("\n\n")[1:])
    assert ("read_few" in one, "read_many" in one) == (True, False)
    assert ("read_few" in three, "read_many" in three) == (False, True)  # four rows, one of them padding


def test_predictions_stand_beside_measured_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile, "_COPIED_BYTES", 1 << 20)
    artifact = cuda_artifact(tmp_path / "model")
    device = CudaDevice(artifact, api=fake_cuda(total_bytes=1 << 27), kv_bytes=20_000)
    monkeypatch.setattr(bench_step, "open_device", lambda *_: device)
    monkeypatch.setattr(bench_step, "device_named", lambda _: device_of("cuda:sm_90"))
    steps = ["bench", "step", str(artifact.path), "--batch", "1", "--context", "9", "--prefill", "7"]
    assert main(steps) == 0
    printed = capsys.readouterr().out
    assert "read 3.17 TB/s; bf16 775 Tflop/s; f8e4m3 1550 Tflop/s" in printed
    assert printed.endswith("0 % of the kernels took within 15 % of what was predicted\n")
    device = CudaDevice(artifact, api=fake_cuda(total_bytes=1 << 27), kv_bytes=20_000)
    assert main([*steps, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (step, _), rows = report["steps"], report["kernels"]["decode 1 at 9"]
    assert report["close"] == 0, "kernels of the fake take 250 us"
    assert all(row["off"] == pytest.approx(row["predicted"] / row["each"] - 1) for row in rows)
    assert 0 < step["predicted"] < sum(row["predicted"] * row["launches"] for row in rows)
    assert step["off"] == pytest.approx(step["predicted"] / step["gpu"] - 1)


def test_steps_on_the_cpu(tiny_artifact: Path, run_cli: RunCLI) -> None:
    steps = ("--batch", "1,2", "--context", "20", "--prefill", "8", "--repeats", "2")
    done = run_cli("bench", "step", tiny_artifact, *steps, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [row["step"] for row in report["steps"]] == ["decode 1 at 20", "decode 2 at 20", "prefill 8"]
    assert all(row["alone"] > 0 for row in report["steps"])
    assert "decode 2 at 20" in run_cli("bench", "step", tiny_artifact, *steps).stdout
    usual = run_cli("bench", "step", tiny_artifact, "--batch", "1", "--context", "20", "--repeats", "1").stdout
    assert "0.000 ms" not in usual, "what is not known is no zero"
    assert "prefill 128" in usual  # the model's context, where the usual lengths are too much
    refused = run_cli("bench", "step", tiny_artifact, "--device", "cuda")
    assert refused.returncode == 2
    assert "no code for the device 'cuda'" in refused.stderr
