"""The journal of generated kernels: what is launched for known models on every GPU architecture, in short texts.

    python -m tests.golden.kernel_journal        # after a change of kernels that is meant

Compiles every kernel (through the cache) and writes `<model>.kernels.txt`; a kernel that does not fit an architecture
is an error. The test compares everything that needs no compiler: names, which say the tiles, ranges, launches, and
hashes of what is given to Triton.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlir.ir as mlir

from warploom.codegen.cuda.architecture import ARCHITECTURES, CudaTarget
from warploom.codegen.cuda.compile import compile_kernels
from warploom.codegen.cuda.driver import CudaProgram, plan_program
from warploom.codegen.cuda.job import job_of
from warploom.codegen.cuda.resources import Resources
from warploom.codegen.cuda.target import K_LAYOUT, PAGE_SIZE, cuda
from warploom.frontend.dummy import dummy_tensor
from warploom.frontend.models.inputs import CacheSpec
from warploom.frontend.trace import Limits, trace
from warploom.ir.context import new_context
from warploom.ir.types import DType
from warploom.passes.pipeline import pipeline, run
from warploom.runtime.plan import Launch

FOLDER = Path(__file__).parent
_NO_END = 1 << 20
LAYERS = 2  # more would only repeat them
LIMITS = Limits(max_tokens=8192, max_sequences=256, max_context=8192)
HEADER = """\
# Kernels of {model}, {layers} layers, bf16 weights; python -m tests.golden.kernel_journal writes this.
# kernel | launches of it, where | hash of its source and options | registers, spilled bytes, shared bytes, warps
"""


def models() -> dict[str, dict[str, Any]]:
    """Configurations by name, cut down to a few layers."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def plan_model(config: dict[str, Any], arch: str) -> CudaProgram:
    """The launches of a model on an architecture, nothing compiled."""
    target = CudaTarget(arch)
    with new_context(), mlir.Location.unknown():
        cache = CacheSpec(PAGE_SIZE, DType.BF16, K_LAYOUT)
        module = trace({**config, "num_hidden_layers": LAYERS}, dummy_tensor, cache, LIMITS, DType.BF16)
        assert list(run(module, pipeline(cuda(target), "bf16")))
        return plan_program(module, target)


def lines(program: CudaProgram, arch: str) -> Iterator[str]:
    """One line per kernel, all of it but the resources."""
    target = CudaTarget(arch)
    places: dict[str, dict[str, int]] = {}
    for entry, planned in program.entries.items():
        for launch in planned.launches:
            counts = places.setdefault(launch.kernel, {})
            place = f"{entry}{_range(launch)}"
            counts[place] = counts.get(place, 0) + 1
    for name, kernel in program.kernels.items():
        where = ", ".join(f"{count} in {place}" for place, count in places.get(name, {}).items())
        yield f"{name} | {where} | {job_of(kernel.spec, target).code_hash[:12]}"


def _range(launch: Launch) -> str:
    guard = launch.when
    if guard is None:
        return ""
    low, high = (str(end) if abs(end) < _NO_END else "" for end in (guard.min, guard.max))
    return f" at {guard.value} {low}..{high}"


def describe(resources: Resources) -> str:
    """The resources of a kernel, as the journal states them."""
    return f"{resources.registers} r, {resources.spill_bytes} b, {resources.shared_bytes} b, {resources.num_warps} w"


def journal(model: str, config: dict[str, Any]) -> str:
    """The text of a model; compiles what the cache does not have."""
    parts = [HEADER.format(model=model, layers=LAYERS)]
    for arch in ARCHITECTURES:
        program = plan_model(config, arch)
        compiled = compile_kernels([kernel.spec for kernel in program.kernels.values()], CudaTarget(arch))
        rows = zip(lines(program, arch), compiled, strict=True)
        parts += [f"\n{arch}\n", *(f"{line} | {describe(kernel.resources)}\n" for line, kernel in rows)]
    return "".join(parts)


def main() -> None:
    """Write all journals."""
    for model, config in models().items():
        (FOLDER / f"{model}.kernels.txt").write_text(journal(model, config))


if __name__ == "__main__":
    main()
