"""Compile the kernels of latent attention that `run_latent.py` checks and times on a GPU. Needs no GPU.

    python -m tests.gpu.build_latent [FOLDER]

writes FOLDER (default `.warploom/gpu/latent`): `kernels.json` and the cubins. A program is a variant of a group.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.gpu import arguments
from tests.gpu.build_kernels import describe
from warploom.codegen.binding import Slot
from warploom.codegen.columns import Range
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.compile import compile_kernels
from warploom.codegen.cuda.kernel import CudaKernelSpec, Step
from warploom.codegen.cuda.kernels.absorbed_attention import AbsorbedProblem, lower
from warploom.codegen.cuda.kernels.expanded_attention import ExpandedAttentionSpec, ExpandedProblem, expanded_tile
from warploom.codegen.cuda.kernels.expansion import Expansion
from warploom.codegen.cuda.kernels.latent_problem import LatentProblem
from warploom.codegen.cuda.scope import Scope
from warploom.ir.dims import dim
from warploom.ir.ops.latent_rows import runs_of
from warploom.ir.types import DType

TARGET = CudaTarget("sm_90")
ARRAYS = ("q", "q_rope", "kv", "page_table", "query_start", "context_lens", "of_keys", "of_values", "out")
FORMS = ("decode", "decode_many", "ragged", "ragged_many", "expanded")


def problem(
    heads: int, latent: int, plain: int, rotated: int, value: int, room: int, kv: DType = DType.BF16
) -> AbsorbedProblem:
    """Queries are behind eight other columns."""
    attention = LatentProblem(heads, latent, rotated, (plain + rotated) ** -0.5, kv)
    expansion = Expansion(room, heads, latent, plain, rotated, value)
    queries = Range(8, heads * (plain + rotated) + 8)
    return AbsorbedProblem(attention, expansion, dim("T"), queries, (DType.BF16, DType.BF16))


PROBLEMS = {
    "lite": problem(16, 512, 128, 64, 128, 24576),
    "little_room": problem(16, 512, 128, 64, 128, 768),
    "small": problem(5, 64, 40, 16, 24, 2048),
    "lite_fp8": problem(16, 512, 128, 64, 128, 24576, DType.F8),
    "lite_int8": problem(16, 512, 128, 64, 128, 24576, DType.I8),
    "two_runs_fp8": problem(5, 256, 40, 64, 24, 2048, DType.F8),
    "two_runs_int8": problem(21, 256, 40, 64, 24, 2048, DType.I8),
    "small_fp8": problem(5, 64, 40, 16, 24, 2048, DType.F8),
    "small_int8": problem(5, 64, 40, 16, 24, 2048, DType.I8),
}


def described(step: Step, scope: Scope, temps: list[str]) -> dict[str, Any]:
    """A launch: its kernel, and what its operands are called in the program."""
    names = {slot: name for name, slot in scope.slots.items()} | {Slot("temp", i): n for i, n in enumerate(temps)}
    operands = (operand.name for operand in step.spec.operands)
    return {"kernel": step.spec.name, "names": dict(zip(operands, (names[s] for s in step.operands), strict=True))}


def main() -> None:
    """Build."""
    parser = arguments.parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(".warploom/gpu/latent"))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    specs: dict[str, CudaKernelSpec] = {}
    programs: list[dict[str, Any]] = []
    scope = Scope({name: Slot("input", i) for i, name in enumerate(ARRAYS)}, {name: name for name in "TSP"})
    for name, p in PROBLEMS.items():
        found = lower(p, scope, TARGET)
        temps = [*p.temps, "parts", "statistics"]
        shapes = {
            temp: {"shape": list(map(str, t.type.shape)), "dtype": str(t.type.dtype)}
            for temp, t in zip(temps, found.temps, strict=True)
        }
        facts: dict[str, Any] = {
            "problem": name,
            "sizes": asdict(p.expansion),
            "queries": asdict(p.queries),
            "temps": shapes,
        }
        facts |= {"kv": str(p.attention.kv), "runs": runs_of(p.attention.latent, p.attention.rotated, p.attention.kv)}
        for form, variant in zip(FORMS, found.variants, strict=True):
            steps = list(variant.steps)
            forms = {form: steps}
            if form == "expanded":
                e = p.expansion
                attends = ExpandedProblem(e, p.queries, p.attention.scale)
                plain = ExpandedAttentionSpec(attends, expanded_tile(attends, TARGET), True)
                forms["expanded_triton"] = [*steps[:-1], scope.with_temps(temps).step(plain)]
            for called, launches in forms.items():
                specs |= {step.spec.name: step.spec for step in launches}
                programs.append(facts | {"form": called, "steps": [described(s, scope, temps) for s in launches]})
    infos = {}
    for kernel in compile_kernels(list(specs.values()), TARGET, lambda done: None):
        (folder / f"{kernel.name}.cubin").write_bytes(kernel.cubin)
        infos[kernel.name] = asdict(kernel.resources) | describe(specs[kernel.name], kernel) | {"temps": []}
    (folder / "kernels.json").write_text(json.dumps({"cases": programs, "kernels": infos}))
    print(f"{len(programs)} programs, {len(infos)} kernels")


if __name__ == "__main__":
    main()
