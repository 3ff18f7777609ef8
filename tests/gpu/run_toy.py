"""Check the runtime on a GPU with the toy model, token by token against its oracle, and time noise and launches.

    python -m tests.gpu.run_toy artifacts/toy --out FILE.json     # made by tests/gpu/toy_model.py

The checks are those of run_device.py and the oracle's; see there.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from typing import Any

import numpy as np

from tests.cuda_fake_model import MAX_SEQS, PAGE
from tests.gpu.run_device import generate, main, requests_of
from tests.gpu.toy_model import answer
from tests.runtime_fakes import VOCAB_SIZE
from warploom.runtime.artifact import Artifact
from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.cuda.driver import Driver
from warploom.runtime.cuda.profile import copy_bandwidth, time_kernels, time_step
from warploom.runtime.cuda.weights import upload
from warploom.runtime.noise import BLOCK, random_param
from warploom.runtime.step_batch import StepBatch
from warploom.tools.synthetic import ragged_batch


def oracle(artifact: Artifact, device: CudaDevice) -> dict[str, bool]:
    requests = [
        (prompt[:20], replace(params, ignore_eos=False, max_tokens=20)) for prompt, params in requests_of(artifact, 20)
    ]
    expected = [answer(prompt, params, -1) for prompt, params in requests]
    print(f"copy {copy_bandwidth(device) / 1e12:.3f} TB/s; weights made in {device.load_seconds['weights']:.3f} s")
    print("host time of one launch", _launch_seconds(device))
    print(f"upload {_upload_rate(device) / 1e9:.1f} GB/s from the page cache")
    batch = ragged_batch(device, VOCAB_SIZE, [1] * MAX_SEQS, [9] * MAX_SEQS, temperature=1, seed=1)
    print(time_step(device, batch, 200, time.perf_counter))
    _print_host_times(device, batch)
    print(*time_kernels(device, batch, 20), sep="\n")
    return {
        "tokens are the oracle's": generate(artifact, device, requests) == expected,
        "noise": _noise(artifact, device),
    }


def _launch_seconds(device: CudaDevice) -> float:
    """Host seconds for a launch of a prompt step."""
    batch = ragged_batch(device, VOCAB_SIZE, [2 * PAGE], [2 * PAGE], temperature=1, seed=1)
    shape = device.upload(batch, None)
    rounds = 20
    device.driver.call("cuStreamSynchronize", device.stream)
    started = time.perf_counter()
    for _ in range(rounds):
        device.enqueue(shape, ["step"])
    seconds = time.perf_counter() - started
    device.driver.call("cuStreamSynchronize", device.stream)
    return seconds / rounds / len(device.program.entries["step"].queue)


def _upload_rate(device: CudaDevice, num_bytes: int = 4 << 30) -> float:
    """Bytes per second from a file that has just been written to the GPU."""
    with tempfile.NamedTemporaryFile() as file:
        np.random.default_rng(0).integers(0, 255, num_bytes, np.uint8).tofile(file.name)
        array = np.memmap(file.name, np.uint8, "r")
        address = device.program.memory.take("upload", num_bytes)
        started = time.perf_counter()
        upload(device.driver, {address: array})
        seconds = time.perf_counter() - started
        device.program.memory.give_back("upload")
    return num_bytes / seconds


def _print_host_times(device: CudaDevice, batch: StepBatch, rounds: int = 500) -> None:
    """Where the host's time of pipelined steps goes: functions of the driver, and the rest."""
    spent: dict[str, float] = {}
    call = Driver.call

    def timed(self: Driver, function: str, *args: Any) -> Any:
        started = time.perf_counter()
        value = call(self, function, *args)
        spent[function] = spent.get(function, 0) + time.perf_counter() - started
        return value

    Driver.call = timed  # type: ignore[method-assign]
    started = time.perf_counter()
    ticket = device.launch(batch)
    for _ in range(rounds):
        following = device.launch(batch)
        device.result(ticket)
        ticket = following
    device.result(ticket)
    whole = time.perf_counter() - started
    Driver.call = call  # type: ignore[method-assign]
    print(f"pipelined step {1e6 * whole / rounds:.1f} us; of these, in calls:")
    for function, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"  {function} {1e6 * seconds / rounds:.2f} us")


def _noise(artifact: Artifact, device: CudaDevice) -> bool:
    """Whether the ends of the noise on the GPU are what numpy makes."""
    info = artifact.manifest.random_params.get("noise")
    if info is None:
        return True
    rows = 3 * BLOCK // info.shape[1]
    expected = random_param(
        type(info)([min(rows, info.shape[0]), info.shape[1]], "bf16", info.mean, info.scale, info.seed)
    )
    found = np.empty_like(expected)
    address = device.program.entries["step"].places["noise"].offset
    device.driver.call("cuMemcpyDtoH", found.ctypes.data, address, found.nbytes)
    return bool((found == expected).all())


if __name__ == "__main__":
    sys.exit(main(oracle))
