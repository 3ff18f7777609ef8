"""Timing steps over the fake driver: every launch once, with the dims that it is needed for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cuda_fake import array_at
from tests.cuda_fake_model import cuda_artifact, fake_cuda
from tests.runtime_fakes import VOCAB_SIZE
from warploom.runtime.cuda import profile
from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.cuda.profile import copy_bandwidth, fill_cache, time_kernels, time_step
from warploom.tools.synthetic import ragged_batch


@pytest.fixture
def device(tmp_path: Path) -> Iterator[CudaDevice]:
    opened = CudaDevice(cuda_artifact(tmp_path / "model"), kv_bytes=20_000, api=fake_cuda(total_bytes=1 << 27))
    yield opened
    opened.close()


def test_every_launch_is_timed_between_two_events(device: CudaDevice) -> None:
    batch = ragged_batch(device, VOCAB_SIZE, [1, 1, 1], [5, 9, 2], temperature=1.0, seed=0)
    times = time_kernels(device, batch, 2)
    assert [one.launch.kernel for one in times] == ["feed_tokens", "write", "read_many", "copy", "sample"]
    assert [one.entry for one in times] == ["feed", "step", "step", "step", "sample"]
    assert {one.seconds for one in times} == {0.00025}
    assert {one.dims["T"] for one in times} == {3}, "four rows are computed, one of them is padding"


def test_a_prompt_step_is_timed_as_it_is_served(device: CudaDevice) -> None:
    batch = ragged_batch(device, VOCAB_SIZE, [7], [7], temperature=1.0, seed=0)
    ticks = iter(range(100))
    timed = time_step(device, batch, 3, lambda: float(next(ticks)))
    assert (timed.gpu, timed.alone, timed.pipelined) == (0.00025, 1.0, 1 / 3)


def test_cache_is_filled_with_numbers_that_are_not_zero(device: CudaDevice) -> None:
    fill_cache(device)
    address, num_bytes = device.program.cache
    values = array_at(address, np.float32, [num_bytes // 4])
    assert (values != 0).all()
    assert np.abs(values).max() <= 1


def test_copy_gives_its_memory_back(device: CudaDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "_COPIED_BYTES", 1 << 20)
    before = device.program.memory.taken
    assert copy_bandwidth(device, 1) == pytest.approx(2 * (1 << 20) / 0.00025)
    assert device.program.memory.taken == before
