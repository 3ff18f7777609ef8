"""`warploom tune`: the fastest tiles of a model's linear layers, measured on a GPU."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from warploom.errors import ArtifactError
from warploom.tools.status import counted, status
from warploom.tools.text_files import read_json

if TYPE_CHECKING:
    from warploom.codegen.cuda.kernels.linear_problem import LinearProblem

_EXAMPLES = """\
examples:
  warploom tune build llama-8b -o candidates            # anywhere; no GPU is needed
  warploom tune run candidates -o timings.json          # on the GPU; no compiler is needed
  warploom tune select timings.json codegen/tuning/sm_90.json

`build` compiles the candidates for every linear layer of an artifact, `run` times them, `select` writes the fastest
into the tuning table that `warploom compile` reads. Layers that were not timed keep their tiles.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = "Measure how linear layers are cut into blocks best."
    parser.epilog = _EXAMPLES
    steps = parser.add_subparsers(required=True, metavar="STEP")
    build = steps.add_parser("build", help="compile candidates")
    build.add_argument("artifact", type=Path, metavar="ARTIFACT", help="compiled for the GPU, also with dummy weights")
    build.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER")
    build.add_argument("--target", default="cuda:sm_90", metavar="NAME", help="which of its targets")
    build.add_argument("--refine", action="store_true", help="only neighbours of the tiles in the table")
    build.set_defaults(run=_build)
    run = steps.add_parser("run", help="time candidates on this machine's GPU")
    run.add_argument("folder", type=Path, metavar="FOLDER")
    run.add_argument("-o", "--out", type=Path, required=True, metavar="FILE.json")
    run.add_argument(
        "--seconds",
        type=float,
        default=600.0,
        metavar="N",
        help="at most (default: %(default)s); layers unfinished then are left out",
    )
    run.set_defaults(run=_run)
    select = steps.add_parser("select", help="write the fastest into a tuning table")
    select.add_argument("timings", type=Path, nargs="+", metavar="TIMINGS.json", help="of a tile timed twice, the last")
    select.add_argument("table", type=Path, metavar="TABLE.json", help="codegen/tuning/<arch>.json")
    select.set_defaults(run=_select)


def _build(args: argparse.Namespace) -> None:
    from warploom.codegen.cuda.architecture import CudaTarget
    from warploom.codegen.cuda.candidates import candidates, neighbours
    from warploom.codegen.cuda.tuning import choices_for
    from warploom.tools.tuning_programs import Programs

    target = CudaTarget(args.target.removeprefix("cuda:"))
    programs = Programs(target)
    for key, problem in _problems(args.artifact, args.target).items():
        tried = list(choices_for(problem, target))
        tried += [n for c in tried for n in neighbours(c)] if args.refine else list(candidates(problem))
        for choice in dict.fromkeys(tried):
            programs.add("sweep", key, problem, (choice,))
    with status() as show:
        excess = programs.write(args.out, programs.specs.keys(), counted(show, "kernels compiled"))
    print(f"{len(programs.programs)} candidates, {len(programs.specs)} kernels; {len(excess)} do not fit the GPU")


def _problems(path: Path, target: str) -> dict[str, LinearProblem]:
    """The linear layers of an artifact, from the last stage of its program."""
    import mlir.ir as mlir

    from warploom.ir.context import new_context, parse
    from warploom.runtime.artifact import ir_folder, load
    from warploom.tools.tuning_programs import problems_of

    artifact = load(path)
    stages = sorted(name for name in artifact.manifest.files if name.startswith(f"{ir_folder(target)}/"))
    if not stages:
        raise ArtifactError(
            f"{path} holds no program for {target}",
            expected=", ".join(artifact.manifest.targets),
            found=target,
            fix="name one of its targets with --target, or compile the model for this one",
        )
    with new_context(), mlir.Location.unknown():
        return problems_of(parse(artifact.read_text(stages[-1])))


def _run(args: argparse.Namespace) -> None:
    from warploom.tools.tuning_runs import time_folder

    timings = time_folder(args.folder, args.seconds, lambda line: print(line, flush=True))
    args.out.write_text(json.dumps(timings))
    print(f"{len(timings)} timings in {args.out}")


def _select(args: argparse.Namespace) -> None:
    import msgspec

    from warploom.codegen.cuda.selection import Timing, select
    from warploom.codegen.cuda.tuning import Table

    timings = [timing for path in args.timings for timing in read_json(path, "what `tune run` wrote", list[Timing])]
    known = read_json(args.table, "a tuning table", Table) if args.table.exists() else Table()
    found = select(timings)
    table = Table({**known.linear, **found.linear})
    args.table.write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")
    print(f"{len(found.linear)} layers chosen, {len(table.linear)} in {args.table}")
