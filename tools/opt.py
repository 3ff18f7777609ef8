"""`warploom opt`: named passes on a program, which every pass keeps valid; prints the program or what each changed."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from warploom.errors import InvalidRequestError
from warploom.tools.compile_extra import require_compiler
from warploom.tools.plugin_flag import add_plugin_flag

if TYPE_CHECKING:
    from warploom.ir.target import Target
    from warploom.passes.pipeline import Pass

_EXAMPLES = """\
examples:
  warploom opt smollm2/ir/cpu/00-trace.mlir simplify cse dce -o simpler.mlir
  warploom opt smollm2/ir/cpu/00-trace.mlir merge_linears --print-changed | less
  warploom opt smollm2/ir/cpu/07-merge_linears.mlir --pipeline bf16 --after 7 --target cpu
  cat program.mlir | warploom opt - 'narrow_weights{dtype=bf16}' hoist_weights
  warploom opt --list

Any stage of an artifact's `ir` folder can be given. The numbers of the stages are places in `--pipeline`.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = "Run passes on an IR program and print the result."
    parser.epilog = _EXAMPLES
    parser.add_argument("file", nargs="?", metavar="FILE", help="an .mlir file; - is standard input")
    parser.add_argument("passes", nargs="*", metavar="PASS", help="name, or name{argument=value,...}")
    parser.add_argument("--list", action="store_true", help="print the names of all passes")
    parser.add_argument("--pipeline", metavar="QUANTIZATION", help="run what `compile` runs, for weights of this kind")
    parser.add_argument("--after", type=int, metavar="N", help="of the pipeline: leave out the first N")
    parser.add_argument("--target", metavar="NAME", help="for passes that ask: cpu, or a GPU: cuda:sm_90")
    add_plugin_flag(parser)
    parser.add_argument("--print-after-all", action="store_true", help="print the program after every pass")
    parser.add_argument("--print-changed", action="store_true", help="print what every pass changed, as a diff")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="write the result there (default: print it)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Do what a parsed command line asks for."""
    from warploom.plugins import load_plugins

    require_compiler("run passes")
    load_plugins(args.plugin)
    if args.list:
        print("\n".join(_described()))
        return
    if args.file is None:
        raise InvalidRequestError("opt needs a program", expected="FILE, or - for standard input")
    text = _optimized(args)
    if args.out is not None:
        args.out.write_text(text)
    elif not (args.print_after_all or args.print_changed):
        print(text, end="")


def _optimized(args: argparse.Namespace) -> str:
    import mlir.ir as mlir

    from warploom.codegen.backend import backend_of
    from warploom.ir.context import new_context, print_module
    from warploom.passes.pipeline import run as run_passes
    from warploom.tools.program_files import read_program

    target = backend_of(args.target).target if args.target else None
    with new_context(), mlir.Location.unknown():
        passes = _chosen(args, target)
        module = read_program(args.file)
        text = print_module(module)
        for number, name in enumerate(run_passes(module, passes), (args.after or 0) + 1):
            before, text = text, print_module(module)
            _show(args, f"{number:02}-{name}", before, text)
        return text


def _chosen(args: argparse.Namespace, target: Target | None) -> list[Pass]:
    from warploom.passes.named import named_pass
    from warploom.passes.pipeline import pipeline

    if args.pipeline is None:
        if args.after is not None:
            raise InvalidRequestError("--after leaves out passes of --pipeline", fix="add --pipeline, or drop --after")
        return [named_pass(text, target) for text in args.passes]
    if args.passes:
        raise InvalidRequestError(
            "--pipeline takes no passes: it has its own",
            found=" ".join(args.passes),
            fix="run the passes on what the pipeline wrote: warploom opt - PASS ...",
        )
    if target is None:
        raise InvalidRequestError("a pipeline needs a target", fix="add --target cpu, or --target cuda:sm_90")
    passes, after = pipeline(target, args.pipeline), args.after or 0
    if not 0 <= after <= len(passes):
        raise InvalidRequestError("--after is out of range", expected=f"0..{len(passes)}", found=str(after))
    return passes[after:]


def _show(args: argparse.Namespace, title: str, before: str, after: str) -> None:
    if args.print_after_all:
        print(f"// ---- {title}\n{after}", end="")
    elif args.print_changed:
        changes = "".join(_changes(before, after))
        print(f"// ---- {title}{'' if changes else ': no change'}\n{changes}", end="")
    sys.stdout.flush()


def _changes(before: str, after: str) -> Iterator[str]:
    lines = before.splitlines(keepends=True), after.splitlines(keepends=True)
    for line in difflib.unified_diff(*lines, n=1):
        if not line.startswith(("---", "+++", "@@")):
            yield line


def _described() -> Iterator[str]:
    """Name and first line of the docstring of every pass."""
    import inspect

    from warploom.passes.named import find_pass, pass_names

    for name in pass_names():
        step = find_pass(name)
        arguments = ", ".join(list(inspect.signature(step).parameters)[1:])
        spelled = f"{name}{{{arguments}}}" if arguments else name
        yield f"{spelled:<28} {(inspect.getdoc(step) or '').partition(chr(10))[0]}"
