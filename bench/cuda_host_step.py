"""Host time of GPU steps without a GPU: what Python does per step, when every call of the driver costs nothing.

    python bench/cuda_host_step.py ARTIFACT          # compiled for a GPU, with dummy weights or real ones

Prints microseconds to launch a step and read its result: decode steps (graphs) and steps that mix a prompt's chunk with
decodes (a launch per kernel). The engine adds its own; a GPU adds the driver's calls (`bench step` has them all).
"""

from __future__ import annotations

import sys
import time
from typing import Any

from tests.cuda_fake import FakeCuda
from warploom.runtime.artifact import load
from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.step_batch import StepBatch
from warploom.tools.synthetic import ragged_batch

ROUNDS = 300


class NoDriver(FakeCuda):
    """A driver that allocates and copies nothing on the device, and whose calls return at once."""

    def __getattribute__(self, name: str) -> Any:
        return object.__getattribute__(self, name)

    def _nothing(self, *arguments: Any) -> tuple[int]:
        return (0,)

    def _something(self, *arguments: Any) -> tuple[int, int]:
        return 0, 1 << 40

    cuMemAlloc = cuModuleGetFunction = _something
    cuMemcpyHtoDAsync = cuMemcpyDtoHAsync = cuMemcpyDtoDAsync = cuMemcpyHtoD = cuMemsetD8 = cuMemFree = _nothing
    cuEventRecord = cuEventSynchronize = cuStreamWaitEvent = cuStreamSynchronize = _nothing
    cuLaunchKernelEx = cuGraphLaunch = _nothing


def host_seconds(device: CudaDevice, batch: StepBatch) -> float:
    """Mean time of this thread (others' is not counted) for a step that is launched while the last one is unread."""
    ticket = device.launch(batch)
    started = time.thread_time()
    for _ in range(ROUNDS):
        following = device.launch(batch)
        device.result(ticket)
        ticket = following
    seconds = time.thread_time() - started
    device.result(ticket)
    return seconds / ROUNDS


def main(path: str) -> None:
    """Measure and print."""
    artifact = load(path)
    device = CudaDevice(artifact, max_tokens=2048, max_seqs=256, kv_bytes=8 << 30, api=NoDriver(total_bytes=1 << 40))
    vocab = artifact.manifest.vocab_size
    for rows in (1, 8, 32, 64, 128, 256):
        batch = ragged_batch(device, vocab, [1] * rows, [300] * rows, temperature=1, seed=1)
        print(f"decode {rows:4}: {1e6 * host_seconds(device, batch):7.1f} us")
    for rows in (0, 16, 63):
        batch = ragged_batch(device, vocab, [512, *[1] * rows], [512, *[300] * rows], temperature=1, seed=1)
        seconds, launches = host_seconds(device, batch), len(device.program.entries["step"].queue)
        print(f"512 of a prompt beside {rows:3} decodes: {1e6 * seconds:7.1f} us, {launches} launches")
    device.close()


if __name__ == "__main__":
    main(sys.argv[1])
