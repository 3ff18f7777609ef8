"""`warploom run`: executes an entry of a program at any stage, and compares two ways or two stages of it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from warploom.errors import InvalidRequestError, IRError
from warploom.runtime.manifest import MANIFEST_FILE
from warploom.tools.compile_extra import require_compiler
from warploom.tools.dims_flag import parse_dims
from warploom.tools.number_flags import parse_bound, parse_count
from warploom.tools.plugin_flag import add_plugin_flag
from warploom.tools.table import shown, table

if TYPE_CHECKING:
    import mlir.ir as mlir

    from warploom.tools.execution import Workload

SHOWN_STEPS = 8
_EXAMPLES = """\
examples:
  warploom run smollm2/ir/cpu/00-trace.mlir
  warploom run smollm2/ir/cpu/*-fuse_loops.mlir --on cpu --against interpreter
  warploom run smollm2/ir/cpu/*-fuse_loops.mlir --against smollm2/ir/cpu/00-trace.mlir --dims T=9,S=3
  warploom run smollm2/ir/cuda.sm_90/00-trace.mlir --on cuda --against interpreter
  warploom run step.mlir --inputs inputs.npz --out results.npz

on a machine without a GPU, then on one with a GPU, which needs no compiler:
  warploom run smollm2/ir/cuda.sm_90/00-trace.mlir --on cuda:sm_90 --save package
  warploom run package

Inputs that are not given are random, and so are weights, the same in every stage (real ones: --weights MODEL).
Two results agree if no number differs by more than the tolerance times the largest number of the result. Where two
experts are nearly as likely, rounding chooses between them. What --save wrote is held to 0.03 in FP8 too: a model
passes on what roundings turn, so where it disagrees at its end it is run again kernel by kernel, each on what the
interpreter computed, and each has to agree.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = "Run an entry of an IR program, and compare it with another way to run it."
    parser.epilog = _EXAMPLES
    parser.add_argument("file", metavar="FILE", help="an .mlir file, - for standard input, or what --save wrote")
    parser.add_argument("--entry", default="step", metavar="NAME", help="the function to run (default: step)")
    parser.add_argument(
        "--on", default="interpreter", metavar="PLACE", help="interpreter (default), cpu, or cuda, such as cuda:sm_90"
    )
    parser.add_argument("--against", metavar="PLACE|FILE", help="compare with another place, or another program")
    parser.add_argument("--dims", type=parse_dims, default={}, metavar="D=N,...", help="sizes of random inputs")
    parser.add_argument("--seed", type=parse_count, default=0, metavar="N", help="of random inputs and weights")
    parser.add_argument("--inputs", type=Path, metavar="FILE.npz", help="inputs by name; others are random")
    parser.add_argument("--weights", metavar="MODEL", help="read weights from this model, as `compile` does")
    parser.add_argument(
        "--tolerance",
        type=parse_bound,
        metavar="X",
        help="of --against (default: by the coarsest numbers that the program makes: 1e-4 of f32, 0.02 of bf16, "
        "0.1 of eight bits; with cuda, which multiplies bf16, at least 0.03)",
    )
    parser.add_argument(
        "--save", type=Path, metavar="FOLDER", help="with --on cuda:ARCH: do not run it, but write all that a GPU needs"
    )
    add_plugin_flag(parser)
    parser.add_argument("-o", "--out", type=Path, metavar="FILE.npz", help="also write the results there")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class ResultRow:
    """One result."""

    result: str
    dtype: str
    shape: str
    least: float = shown(lambda x: f"{x:.5g}")
    largest: float = shown(lambda x: f"{x:.5g}")
    mean: float = shown(lambda x: f"{x:.5g}")


@dataclass(frozen=True)
class ComparedRow(ResultRow):
    """One result beside another: the largest difference, as a fraction of the largest number."""

    difference: float = shown(lambda x: f"{x:.2g}")


def run(args: argparse.Namespace) -> None:
    """Run what a parsed command line asks for; results that differ are an IRError."""
    _refuse_what_would_do_nothing(args)
    if args.save is not None:
        _save(args)
        return
    if _is_saved(args):
        found, reference = _run_saved(args)
    else:
        require_compiler("run programs")
        found, reference = _execute(args)
    rows = [_row(name, array, reference.get(name)) for name, array in found.items()]
    if args.out is not None:
        plain: dict[str, Any] = {name: array.astype(_plain(array)) for name, array in found.items()}
        np.savez(args.out, **plain)
    print(msgspec.json.encode(rows).decode() if args.json else table(rows))
    wrong = [row for row in rows if isinstance(row, ComparedRow) and not row.difference <= args.tolerance]
    if wrong and not (_is_saved(args) and _agrees_by_steps(args)):
        names = ", ".join(row.result for row in wrong)
        raise IRError(
            f"@{args.entry} of {args.file} on {args.on} disagrees with {args.against} in {names}",
            expected=f"differences of at most {args.tolerance:g} of the largest number",
            found=", ".join(f"{row.difference:.3g} in {row.result}" for row in wrong),
            fix="`warploom reduce` finds a smaller program that disagrees; --tolerance allows more",
        )


def _is_saved(args: argparse.Namespace) -> bool:
    """Whether it is what --save wrote, not a program; an artifact is neither, which reading it as a program says."""
    return Path(args.file).is_dir() and not (Path(args.file) / MANIFEST_FILE).is_file()


def _refuse_what_would_do_nothing(args: argparse.Namespace) -> None:
    if _is_saved(args):
        given = [name for name in ("against", "dims", "inputs", "save", "seed", "weights") if getattr(args, name)]
        if given:
            raise InvalidRequestError(
                f"what --save wrote has its own {', '.join(given)}", fix=f"leave out --{' --'.join(given)}"
            )
    elif args.tolerance is not None and args.against is None and args.save is None:
        raise InvalidRequestError("--tolerance is of --against", fix="add --against, or leave it out")


def _execute(args: argparse.Namespace) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The results, and those to compare with, if any."""
    import mlir.ir as mlir

    from warploom.ir.context import new_context
    from warploom.plugins import load_plugins
    from warploom.tools.execution import RUNNERS, is_cuda, runner_of
    from warploom.tools.program_files import read_program

    load_plugins(args.plugin)
    place = runner_of(args.on)
    with new_context(), mlir.Location.unknown():
        module = read_program(args.file)
        args.tolerance = _tolerance(args, module)
        work = _workload(args, module)
        found = place(module, work)
        if args.against is None:
            return found, {}
        if args.against in RUNNERS or is_cuda(args.against):
            return found, runner_of(args.against)(module, work)
        return found, place(read_program(args.against), work)


def _tolerance(args: argparse.Namespace, module: mlir.Module) -> float:
    """What was given, or what the program may differ by where it is computed."""
    from warploom.tools.agreement import usual_tolerance

    return usual_tolerance(module, (args.on, args.against or "")) if args.tolerance is None else float(args.tolerance)


def _save(args: argparse.Namespace) -> None:
    """Write the entry, compiled for a GPU that may be elsewhere, with its data and what comes out elsewhere."""
    require_compiler("compile programs")
    import mlir.ir as mlir

    from warploom.ir.context import new_context
    from warploom.plugins import load_plugins
    from warploom.tools.agreement import CUDA
    from warploom.tools.execution import Against, is_cuda, package_for_cuda, runner_of
    from warploom.tools.program_files import read_program

    load_plugins(args.plugin)
    arch = args.on.partition(":")[2]
    if not is_cuda(args.on) or not arch:
        raise InvalidRequestError(
            "--save is for GPUs of a known architecture", expected="--on cuda:sm_90", found=f"--on {args.on}"
        )
    place = args.against or "interpreter"
    with new_context(), mlir.Location.unknown():
        module = read_program(args.file)
        work = _workload(args, module)
        # What the interpreter computed is saved kernel by kernel too: only what one kernel loses is to be allowed for.
        tolerance = CUDA if args.tolerance is None and place == "interpreter" else _tolerance(args, module)
        against = Against(place, tolerance, runner_of(place)(module, work))
        package_for_cuda(module, work, arch, args.save, against)
    print(f"wrote {args.save}: `warploom run {args.save}` runs it on a GPU of {arch}, without a compiler")


def _run_saved(args: argparse.Namespace) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The results of a saved program, and those that were saved with it, as numbers."""
    from warploom.tools.gpu_package import numbers, read_package, result_dtypes, run_package

    package, arrays = read_package(Path(args.file))
    dtypes = result_dtypes(package)
    args.entry, args.on, args.against = package.entry, f"cuda:{package.arch}", package.against
    args.tolerance = package.tolerance if args.tolerance is None else args.tolerance
    found = run_package(Path(args.file))
    reference = {name: numbers(array, dtypes[name]) for name, array in arrays["expected"].items()}
    return {name: numbers(array, dtypes[name]) for name, array in found.items()}, reference


def _agrees_by_steps(args: argparse.Namespace) -> bool:
    """Whether every group of kernels agrees on the same inputs; prints those that are the furthest apart."""
    from warploom.tools.gpu_steps import run_steps

    rows = sorted(run_steps(Path(args.file), args.tolerance), key=lambda row: row.difference, reverse=True)
    if not rows:
        return False
    if not args.json:
        print(f"\n{len(rows)} values of groups of kernels, each made of what the interpreter computed:")
        print(table(rows[:SHOWN_STEPS]))
    return rows[0].difference <= args.tolerance


def _workload(args: argparse.Namespace, module: mlir.Module) -> Workload:
    from warploom.ir.function import public_functions
    from warploom.tools.execution import Workload, real_weights
    from warploom.tools.given_inputs import check_places, dims_of, read_inputs
    from warploom.tools.random_inputs import checkpoint_tensors, page_size_of, random_inputs, usual_dims

    entries = {name: function for name, function in public_functions(module).items() if name != "prepare"}
    if args.entry not in entries:
        raise InvalidRequestError(f"there is no entry @{args.entry}", expected=", ".join(entries), found=args.entry)
    function = entries[args.entry]
    given = read_inputs(args.inputs, function)
    dims = usual_dims(function, dims_of(function, given) | args.dims)
    inputs = random_inputs(module, function, dims, args.seed) | given
    check_places(inputs, page_size_of(module))
    load = checkpoint_tensors(module, args.seed) if args.weights is None else real_weights(args.weights)
    return Workload(args.entry, inputs, load)


def _row(name: str, array: np.ndarray, reference: np.ndarray | None) -> ResultRow:
    wide = array.astype(np.float64)
    numbers = (float(wide.min()), float(wide.max()), float(wide.mean())) if wide.size else (0.0, 0.0, 0.0)
    shape = " x ".join(map(str, array.shape))
    if reference is None:
        return ResultRow(name, array.dtype.name, shape, *numbers)
    return ComparedRow(name, array.dtype.name, shape, *numbers, _difference(array, reference))


def _difference(array: np.ndarray, reference: np.ndarray) -> float:
    """The largest difference over the largest number; infinite where one of two is NaN."""
    if not reference.size:
        return 0.0
    a, b = array.astype(np.float64), reference.astype(np.float64)
    if a.shape != b.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    scale = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    worst = float(np.nan_to_num(apart, nan=np.inf).max())
    return worst / float(scale) if scale else worst


def _plain(array: np.ndarray) -> np.dtype[np.generic]:
    """A dtype that numpy itself can store: bf16 as f32."""
    return np.dtype(np.float32) if array.dtype.name == "bfloat16" else array.dtype
