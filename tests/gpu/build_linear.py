"""Compile the linear kernels that `run_linear.py` checks and times on a GPU. Needs no GPU.

    python -m tests.gpu.build_linear [--sweep REGEX] [--refine] [FOLDER]

writes FOLDER (default `.warploom/gpu/linear`), see `tools/tuning_programs.py`. Candidates are left to compile, as jobs
for `codegen/cuda/worker.py`, to the many cores of the GPU machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.gpu import arguments
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.candidates import candidates, neighbours
from warploom.codegen.cuda.kernels.linear import linear_spec
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem, Norm, Weight
from warploom.codegen.cuda.tuning import choices_for
from warploom.ir.types import DType
from warploom.tools.tuning_programs import Programs

TARGET = CudaTarget("sm_90")
NORM = Norm(1e-5, DType.F32)
FEW = 384  # tokens, up to which layers of quantized weights are checked as they are chosen

LLAMA_8B = {
    "qkv": LinearProblem(6144, 4096, norm=NORM),
    "o": LinearProblem(4096, 4096, epilogue="residual"),
    "gate_up": LinearProblem(28672, 4096, norm=NORM, epilogue="swiglu"),
    "down": LinearProblem(4096, 14336, epilogue="residual"),
    "head": LinearProblem(128256, 4096, out=DType.F32),
}
SMOLLM2 = {
    "smol_qkv": LinearProblem(960, 576, norm=NORM),
    "smol_o": LinearProblem(576, 576, epilogue="residual"),
    "smol_gate_up": LinearProblem(3072, 576, norm=NORM, epilogue="swiglu"),
    "smol_down": LinearProblem(576, 1536, epilogue="residual"),
    "smol_head": LinearProblem(49152, 576, out=DType.F32),
}
F8 = Weight(DType.F8, 1)


def four_bits(k: int, group: int = 128, scale: DType = DType.BF16, offset: bool = False) -> Weight:
    """The format of int4 weights in groups."""
    return Weight(DType.I4, k // group, scale, offset)


LLAMA_8B_F8 = {f"{name}_f8": replace(p, weight=F8, rounded=True) for name, p in LLAMA_8B.items() if name != "head"}
LLAMA_8B_I8 = {f"{name}_i8": replace(p, weight=Weight(DType.I8, 1)) for name, p in LLAMA_8B.items()}
LLAMA_8B_I4 = {f"{name}_i4": replace(p, weight=four_bits(p.k)) for name, p in LLAMA_8B.items()}
LLAMA_8B_G32 = {f"{name}_g32": replace(p, weight=four_bits(p.k, 32, DType.F16)) for name, p in LLAMA_8B.items()}
# Shapes that fit no tile: ragged rows of W, ragged columns, f32 in and out.
SMALL = {
    "plain": LinearProblem(200, 320),
    "rms": LinearProblem(200, 328, norm=Norm(1e-5, DType.BF16)),
    "residual": LinearProblem(192, 1096, epilogue="residual"),
    "swiglu": LinearProblem(400, 264, epilogue="swiglu"),
    "rms_swiglu": LinearProblem(512, 576, norm=NORM, epilogue="swiglu"),
    "rms_residual": LinearProblem(256, 2048, norm=NORM, epilogue="residual"),
    "f32": LinearProblem(333, 512, x=DType.F32, out=DType.F32),
    "to_f32": LinearProblem(136, 1024, out=DType.F32),
    "f8": LinearProblem(200, 336, weight=F8, rounded=True),
    "f8_rms_swiglu": LinearProblem(512, 576, norm=NORM, epilogue="swiglu", weight=F8, rounded=True),
    "f8_1024": LinearProblem(400, 1024, norm=NORM, epilogue="swiglu", weight=F8, rounded=True),
    "i8_1536": LinearProblem(136, 1536, norm=NORM, weight=Weight(DType.I8, 1), bias=DType.BF16),
    "i8_groups_512": LinearProblem(136, 512, epilogue="residual", weight=Weight(DType.I8, 4)),
    "f8_residual": LinearProblem(192, 1088, epilogue="residual", weight=F8, rounded=True),
    "f8_to_f32": LinearProblem(136, 1024, out=DType.F32, weight=F8, rounded=True),
    "i4": LinearProblem(200, 512, weight=four_bits(512)),
    "i4_residual": LinearProblem(192, 1024, epilogue="residual", weight=four_bits(1024, 64, DType.F16)),
    "i4_rms_swiglu": LinearProblem(512, 768, norm=NORM, epilogue="swiglu", weight=four_bits(768, 32, DType.F32)),
    "i4_2048": LinearProblem(512, 2048, norm=NORM, epilogue="swiglu", weight=four_bits(2048, 128, DType.F16)),
    "i4_1024": LinearProblem(136, 1024, weight=four_bits(1024), bias=DType.BF16, out=DType.F32),
    "i4_offsets": LinearProblem(192, 1024, weight=four_bits(1024, 128, offset=True)),
    "i4_offsets_32": LinearProblem(192, 512, weight=four_bits(512, 32, offset=True), out=DType.F32),
    "i4_16": LinearProblem(192, 1024, weight=four_bits(1024, 16, DType.F16)),
    "i4_32": LinearProblem(192, 1024, weight=four_bits(1024, 32, DType.F16)),
    "i4_rows": LinearProblem(192, 1024, weight=four_bits(1024, 1024, DType.F16)),
    "i4_32_swiglu_offsets": LinearProblem(384, 1024, epilogue="swiglu", weight=four_bits(1024, 32, DType.F16, True)),
    "i4_swiglu_offsets": LinearProblem(384, 2048, epilogue="swiglu", weight=four_bits(2048, 128, DType.F16, True)),
    "i8_32": LinearProblem(136, 1024, epilogue="residual", weight=Weight(DType.I8, 32, DType.F16)),
    "i4_576": LinearProblem(128, 576, weight=four_bits(576, 64)),
    "i8": LinearProblem(200, 768, norm=NORM, weight=Weight(DType.I8, 1)),
    "i8_swiglu": LinearProblem(256, 320, epilogue="swiglu", weight=Weight(DType.I8, 1)),
    "i8_groups": LinearProblem(128, 288, epilogue="residual", weight=Weight(DType.I8, 9)),
    "bias": LinearProblem(200, 320, bias=DType.BF16),
    "bias_rms": LinearProblem(200, 328, norm=NORM, bias=DType.BF16),
    "bias_residual": LinearProblem(192, 1096, epilogue="residual", bias=DType.F32),
    "bias_f8": LinearProblem(200, 336, weight=F8, rounded=True, bias=DType.BF16),
    "bias_i4": LinearProblem(200, 512, weight=four_bits(512), bias=DType.BF16),
}
# With the tiles of deterministic artifacts, tuned and borrowed; some in f32, in which no difference is lost, where that
# fits the GPU.
INVARIANT = {
    "invariant_qkv": LLAMA_8B["qkv"],
    "invariant_o": replace(LLAMA_8B["o"], out=DType.F32),
    "invariant_gate_up": LLAMA_8B["gate_up"],
    "invariant_down": replace(LLAMA_8B["down"], out=DType.F32),
    "invariant_narrow": LinearProblem(320, 192, norm=NORM),
    "invariant_narrow_swiglu": LinearProblem(512, 192, norm=NORM, epilogue="swiglu"),
    "invariant_narrow_residual": LinearProblem(192, 256, epilogue="residual", out=DType.F32),
    "invariant_narrow_head": LinearProblem(99, 192, out=DType.F32),
}


def collect(sweep: str | None, refine: bool, only: str | None) -> Programs:
    """Small shapes to check, large ones to time, candidate tiles whose name `sweep` is found in, neighbours."""
    collection = Programs(TARGET)
    for name, problem in SMALL.items():
        collection.add("check", name, problem, choices_for(problem, TARGET))
        for choice in candidates(problem, thorough=False):
            collection.add("check", name, problem, (choice,))
    for name, problem in INVARIANT.items():
        collection.add("check", name, problem, choices_for(problem, CudaTarget("sm_90", deterministic=True)))
    for name, problem in (LLAMA_8B_F8 | LLAMA_8B_I8 | LLAMA_8B_I4 | LLAMA_8B_G32).items():
        if not name.startswith("head"):
            few = 1 if problem.rounded else FEW
            chosen = tuple(c for c in choices_for(problem, TARGET) if c.up_to is not None and c.up_to <= few)
            collection.add("check", name, problem, chosen or choices_for(problem, TARGET)[:1])
    for name, problem in (LLAMA_8B | LLAMA_8B_F8 | LLAMA_8B_I8 | LLAMA_8B_I4 | LLAMA_8B_G32 | SMOLLM2).items():
        if only and not re.search(only, name):
            continue
        collection.add("bench", name, problem, choices_for(problem, TARGET))
        tuned = choices_for(problem, TARGET)
        found = list(candidates(problem)) if sweep is not None else []
        tried = [choice for choice in found if re.search(sweep or "", linear_spec(problem, choice.tile, TARGET).name)]
        if refine:
            tried += [near for choice in tuned for near in (choice, *neighbours(choice))]
        for choice in dict.fromkeys(tried):
            collection.add("sweep", name, problem, (choice,))
    return collection


def main() -> None:
    """Build."""
    parser = arguments.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".warploom/gpu/linear"))
    parser.add_argument("--sweep", metavar="REGEX", help="also the candidate tiles with such a name; '' for all")
    parser.add_argument("--only", metavar="REGEX", help="of the layers to time, those with such a name")
    parser.add_argument("--refine", action="store_true", help="also the neighbours of the tuned tiles")
    given = parser.parse_args()
    collection = collect(given.sweep, given.refine, given.only)
    compiled = {name for p in collection.programs if p["use"] != "sweep" for name in _kernels(p)}
    print(f"{len(collection.programs)} programs, {len(collection.specs)} kernels, {len(compiled)} to compile here")
    excess = collection.write(given.folder, compiled, _progress)
    print("do not fit the GPU:", ", ".join(excess) or "none")


def _kernels(program: dict[str, Any]) -> Iterator[str]:
    yield from (step["kernel"] for step in program["steps"])


def _progress(done: int, total: int) -> None:
    if done % 50 == 0:
        print(f"  {done}/{total}", flush=True)


if __name__ == "__main__":
    main()
