"""Kernels of dummy models, measured on a GPU, with what the cost model is told of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from warploom.passes.cost import Work
from warploom.runtime.artifact import load
from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.cuda.profile import fill_cache, time_kernels
from warploom.runtime.step_batch import StepBatch
from warploom.tools.predictions import works
from warploom.tools.synthetic import ragged_batch

DECODES = ((1, 256), (8, 256), (32, 256), (128, 256), (1, 4096), (8, 2048))  # sequences, tokens of each
PROMPTS = (128, 1024, 4096)
REPEATS = 10
CACHE_BYTES = 4 << 30


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One kernel at some work: `us` microseconds a launch, in one step (`decode 8 at 256`) of one model or several."""

    model: str
    step: str
    kernel: str
    us: float
    work: Work


def build(models: Mapping[str, tuple[Mapping[str, Any], Iterable[str]]], folder: Path) -> Iterator[str]:
    """Compile the models in their schemes, with dummy weights, for the GPU; yields names of artifacts."""
    for name, (config, schemes) in models.items():
        for scheme in schemes:
            with tempfile.TemporaryDirectory() as temporary:
                checkpoint = Path(temporary) / name
                checkpoint.mkdir()
                (checkpoint / "config.json").write_text(json.dumps(config))
                options = ["--target", "cuda:sm_90", "--quantization", scheme, "--dummy-weights"]
                options += ["-o", str(folder / f"{name}.{scheme}")]
                command = [sys.executable, "-m", "warploom.tools.cli", "compile", str(checkpoint), *options]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            yield f"{name}.{scheme}"


def measure(folder: Path) -> list[Row]:
    """Time every kernel of an artifact's steps."""
    artifact = load(folder)
    device = CudaDevice(artifact, max_seqs=128, max_tokens=max(PROMPTS), kv_bytes=CACHE_BYTES)
    try:
        fill_cache(device)
        vocab = artifact.manifest.vocab_size
        return [row for step, batch in _batches(device, vocab) for row in _rows(device, folder.name, step, batch)]
    finally:
        device.close()


def _batches(device: CudaDevice, vocab: int) -> Iterator[tuple[str, StepBatch]]:
    for rows, context in DECODES:
        contexts = [context] * rows
        step = f"decode {rows} at {context}"
        yield step, ragged_batch(device, vocab, [1] * rows, contexts, temperature=1.0, seed=rows)
    for tokens in PROMPTS:
        yield f"prefill {tokens}", ragged_batch(device, vocab, [tokens], [tokens], temperature=1.0, seed=tokens)


def _rows(device: CudaDevice, model: str, step: str, batch: StepBatch) -> Iterator[Row]:
    for one in time_kernels(device, batch, REPEATS):
        (work,) = works(device.program.plan, one.entry, [one.launch], one.dims)
        yield Row(model, step, one.launch.kernel, 1e6 * one.seconds, work)


def distinct(rows: Iterable[Row]) -> list[Row]:
    """Return one row for each kernel and work, with its median time: layers repeat, and models share kernels."""
    same: dict[tuple[str, Work], list[Row]] = defaultdict(list)
    for row in rows:
        same[row.kernel, row.work].append(row)
    return [
        Row(some[0].model, some[0].step, kernel, round(median(row.us for row in some), 2), work)
        for (kernel, work), some in same.items()
    ]


def read(path: Path) -> list[Row]:
    """Return the rows of a file."""
    return msgspec.json.decode(path.read_bytes(), type=list[Row])


def write(rows: Iterable[Row], path: Path) -> None:
    """One row a line."""
    path.write_text("[\n" + ",\n".join(msgspec.json.encode(row).decode() for row in rows) + "\n]\n")
