"""Compile the kernels of mixtures of experts that `run_experts.py` checks and times on a GPU. Needs no GPU.

    python -m tests.gpu.build_experts [--sweep NAME,...] [FOLDER]

writes FOLDER (default `.warploom/gpu/experts`), see `tools/tuning_programs.py`. What a sweep tries of the shapes of
`TIMED` is left as jobs for the compiler there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tests.gpu import arguments
from warploom.codegen.binding import Slot
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernels.expert_mlp import MlpProblem, lower
from warploom.codegen.cuda.kernels.expert_problem import ExpertProblem, Gate
from warploom.codegen.cuda.kernels.expert_tiles import ExpertChoice, ExpertGemmTile, ExpertGemvTile, choices_for
from warploom.codegen.cuda.kernels.linear_problem import Weight
from warploom.ir.dims import dim
from warploom.ir.types import DType
from warploom.tools.tuning_programs import Programs

TARGET = CudaTarget("sm_90")
SHARED = ("x", "experts", "shares", "residual", "out")
OWN = ("w", "scale", "bias")
ARRAYS = (*SHARED, *(f"{part}_{name}" for part in ("first", "second") for name in OWN))


def mixture(
    experts: int, choices: int, hidden: int, inner: int, out: DType = DType.BF16, *, residual: bool = True, **more: Any
) -> MlpProblem:
    """A problem, by its sizes."""
    first = ExpertProblem(
        experts, 2 * inner, hidden, choices, True, gate=more.get("gate", Gate()), bias=more.get("bias")
    )
    second = ExpertProblem(experts, hidden, inner, choices, False, bias=more.get("bias"))
    return MlpProblem(first, second, out, residual)


QWEN3_30B = mixture(128, 8, 2048, 768, DType.F32)


def quantized(problem: MlpProblem, dtype: DType, group: int, scale: DType) -> MlpProblem:
    """The same with weights of few bits; a group of 0 is a row."""
    parts = (problem.first, problem.second)
    first, second = (replace(p, weight=Weight(dtype, p.k // (group or p.k), scale)) for p in parts)
    return replace(problem, first=first, second=second)


SMALL = mixture(12, 4, 512, 384)
CHECKED = {
    "qwen3_30b": QWEN3_30B,
    "mixtral": mixture(8, 2, 512, 1792),
    "ragged": mixture(7, 3, 200, 37, DType.F32),
    "alone": mixture(60, 4, 256, 176, residual=False),
    "gpt_oss": mixture(32, 4, 360, 320, bias=DType.BF16, gate=Gate(1.702, 7.0)),
    "i8": quantized(SMALL, DType.I8, 0, DType.F32),
    "f8": quantized(SMALL, DType.F8, 0, DType.F32),
    "i4": quantized(SMALL, DType.I4, 32, DType.F16),
    "mxfp4": quantized(mixture(12, 4, 576, 320, bias=DType.BF16, gate=Gate(1.702, 7.0)), DType.I4, 32, DType.I8),
}
GPT_OSS_20B = mixture(32, 4, 2880, 2880, bias=DType.BF16, gate=Gate(1.702, 7.0))
TIMED = {
    "qwen3_30b": QWEN3_30B,
    "qwen3_30b_i4": quantized(QWEN3_30B, DType.I4, 32, DType.F16),
    "qwen3_30b_i4_rows": quantized(QWEN3_30B, DType.I4, 128, DType.F16),
    "qwen3_30b_f8": quantized(QWEN3_30B, DType.F8, 0, DType.F32),
    "qwen3_30b_i8": quantized(QWEN3_30B, DType.I8, 0, DType.F32),
    "gpt_oss_20b": quantized(GPT_OSS_20B, DType.I4, 32, DType.I8),
}


class ExpertPrograms(Programs):
    """Programs of mixtures."""

    def add_mixture(
        self, use: str, name: str, problem: MlpProblem, choices: tuple[ExpertChoice, ...], begin: int = 1
    ) -> None:
        """Every choice as a program, the first from `begin` tokens on."""
        places = {array: Slot("input", index) for index, array in enumerate(ARRAYS)}
        shared = {array: places[array] for array in SHARED}
        slots = {part: shared | {array: places[f"{part}_{array}"] for array in OWN} for part in ("first", "second")}
        found = lower(problem, slots, dim("T"), choices, TARGET)
        for choice, variant in zip(choices, found.variants, strict=True):
            self.specs |= {step.spec.name: step.spec for step in variant.steps}
            temps = [
                {"shape": [str(d) for d in t.type.shape], "dtype": str(t.type.dtype), "zeroed": t.zeroed}
                for t in found.temps
            ]
            steps = [{"kernel": s.spec.name, "operands": [*map(_place, s.operands)]} for s in variant.steps]
            self.programs.append(
                {
                    "use": use,
                    "name": name,
                    "problem": asdict(problem),
                    "weight_bytes": problem.first.weight_bytes + problem.second.weight_bytes,
                    "begin": begin,
                    "end": choice.up_to,
                    "choice": [asdict(choice.first), asdict(choice.second)],
                    "temps": temps,
                    "steps": steps,
                }
            )
            begin = (choice.up_to or 0) + 1


def _place(slot: Slot) -> str | int:
    """Name of an array, or number of a temp."""
    return ARRAYS[slot.index] if slot.side == "input" else slot.index


def gemv_candidates(chosen: ExpertChoice) -> Iterator[ExpertChoice]:
    """One product's tile at a time."""
    for tile in ((1, 1024, 2, 4), (1, 2048, 1, 4), (2, 1024, 2, 2), (1, 1024, 2, 2)):
        yield replace(chosen, first=ExpertGemvTile(*tile))
    for tile in ((2, 256, 6, 2), (2, 256, 4, 2), (1, 256, 8, 1), (4, 256, 8, 4), (2, 128, 8, 1)):
        yield replace(chosen, second=ExpertGemvTile(*tile))


def gemm_candidates(chosen: ExpertChoice) -> Iterator[ExpertChoice]:
    """One product's tile at a time, of few tokens or of many."""
    assert isinstance(chosen.first, ExpertGemmTile)
    block_t = chosen.first.block_t
    few = ((128, 64, 4, 5), (128, 128, 4, 2), (128, 128, 4, 3), (256, 64, 4, 3))
    many = ((128, 64, 4, 3), (128, 64, 8, 3), (256, 64, 8, 3), (256, 64, 8, 4), (128, 64, 8, 4))
    for n, k, warps, stages in few if block_t <= 32 else many:
        tile = ExpertGemmTile(n, block_t, k, warps, stages, tma=True)
        yield replace(chosen, first=tile)
        yield replace(chosen, second=tile)


def few_bit_candidates(block_t: int) -> Iterator[ExpertGemmTile]:
    """For numbers that become bf16 in registers; the first is the one beside which others are tried."""
    sums = block_t <= 32
    for n, k, warps, stages in ((64, 256, 4, 3), (64, 128, 4, 4), (64, 256, 4, 4), (64, 320, 4, 3), (64, 576, 4, 2)):
        yield ExpertGemmTile(n, block_t, k, warps, stages, sums=sums)
    for n, k, warps, stages in ((64, 128, 2, 3), (64, 256, 2, 3), (32, 256, 2, 3)) if sums else ():
        yield ExpertGemmTile(n, block_t, k, warps, stages, sums=True)
    if not sums:
        yield ExpertGemmTile(64, block_t, 256, 4, 3, sums=True)


def few_bit_sweep(problem: MlpProblem) -> Iterator[tuple[int, ExpertChoice]]:
    """Candidates with the tokens that they begin at: one product's tile at a time."""
    per_expert = problem.first.experts // problem.first.choices
    for block_t, begin, end in ((8, 1, 8), (16, 4, 16), (32, 8, 32), (64, 32, 64)):
        tiles = [*few_bit_candidates(block_t)]
        for tile in tiles:
            yield max(1, begin * per_expert // 2), ExpertChoice(end * per_expert, tile, tiles[0])
        for tile in tiles[1:]:
            yield max(1, begin * per_expert // 2), ExpertChoice(end * per_expert, tiles[0], tile)


def collect(sweep: list[str]) -> ExpertPrograms:
    """What artifacts use; candidates for the shapes that are named."""
    collection = ExpertPrograms(TARGET)
    for name, problem in CHECKED.items():
        collection.add_mixture("check", name, problem, choices_for(problem.first, problem.second, TARGET))
    for name in sweep:
        problem = TIMED[name]
        collection.add_mixture("bench", name, problem, choices_for(problem.first, problem.second, TARGET))
        for begin, choice in () if problem.first.is_plain else few_bit_sweep(problem):
            collection.add_mixture("sweep", name, problem, (choice,), begin)
    chosen = choices_for(QWEN3_30B.first, QWEN3_30B.second, TARGET)
    begin = 1
    for choice in chosen if "qwen3_30b" in sweep else ():
        found = gemv_candidates if isinstance(choice.first, ExpertGemvTile) else gemm_candidates
        for candidate in found(choice):
            collection.add_mixture("sweep", f"qwen3_30b_{choice.up_to}", QWEN3_30B, (candidate,), begin)
        begin = (choice.up_to or 0) + 1
    return collection


def main() -> None:
    """Build."""
    parser = arguments.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".warploom/gpu/experts"))
    parser.add_argument("--sweep", default="", metavar="NAME,...", help=f"also candidate tiles of {', '.join(TIMED)}")
    given = parser.parse_args()
    collection = collect([name for name in given.sweep.split(",") if name])
    print(f"{len(collection.programs)} programs, {len(collection.specs)} kernels")
    tried = {step["kernel"] for p in collection.programs if p["use"] == "sweep" for step in p["steps"]}
    excess = collection.write(given.folder, set(collection.specs) - tried)
    print("do not fit the GPU:", ", ".join(excess) or "none")


if __name__ == "__main__":
    main()
