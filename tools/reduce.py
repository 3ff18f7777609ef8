"""`warploom reduce`: the smallest program that still fails, by delta debugging on results, ops, functions and dims.

A program fails if a command says so (exit status 0, like a test in `git bisect run` turned round: the bug is there),
or if a pass breaks one of its promises on it (see `pass_failures`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from warploom.errors import InvalidRequestError
from warploom.tools.compile_extra import require_compiler
from warploom.tools.plugin_flag import add_plugin_flag

_EXAMPLES = """\
examples:
  warploom reduce failing.mlir --pass simplify
  warploom reduce failing.mlir --pass 'narrow_weights{dtype=bf16}' --property verify -o small.mlir
  warploom reduce failing.mlir --command './still_fails.sh {}' -o small.mlir
  warploom reduce stage.mlir --command '! warploom run {} --on cpu --against interpreter'

{} is the file with the program to judge; the command exits with 0 if the program still shows the bug.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = "Shrink an IR program as long as it still fails."
    parser.epilog = _EXAMPLES
    parser.add_argument("file", metavar="FILE", help="an .mlir file that fails; - is standard input")
    judges = parser.add_mutually_exclusive_group(required=True)
    judges.add_argument("--command", metavar="COMMAND", help="exits with 0 if the program {} still fails")
    judges.add_argument("--pass", dest="pass_", metavar="PASS", help="a pass that breaks a promise on the program")
    parser.add_argument(
        "--property", metavar="NAME", help="of --pass: verify, meaning, idempotent or text (default: any)"
    )
    parser.add_argument("--target", metavar="NAME", help="for passes that ask: cpu, or a GPU: cuda:sm_90")
    add_plugin_flag(parser)
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="write the result there (default: print it)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Reduce what a parsed command line asks for."""
    require_compiler("reduce programs")
    import mlir.ir as mlir

    from warploom.ir.context import new_context, print_module
    from warploom.plugins import load_plugins
    from warploom.tools.program_files import read_program
    from warploom.tools.reducer import num_ops, reduced

    load_plugins(args.plugin)
    with new_context(), mlir.Location.unknown():
        module = read_program(args.file)
        text, before = print_module(module), num_ops(module)
        fails = _command_judge(args.command) if args.command else _property_judge(args)
        if not fails(text):
            raise InvalidRequestError(
                f"{args.file} does not fail, so that there is nothing to reduce",
                fix="check the command (it exits with 0 if the bug is there), the pass and the property",
            )
        small = reduced(text, fails, lambda ops: print(f"{ops} ops", file=sys.stderr))
        after = num_ops(mlir.Module.parse(small))
    print(f"{before} ops became {after}", file=sys.stderr)
    if args.out is not None:
        args.out.write_text(small)
    else:
        print(small, end="")


def _command_judge(command: str) -> Callable[[str], bool]:
    if "{}" not in command:
        raise InvalidRequestError("the command does not say where the program goes", expected="{} in it", found=command)

    def fails(text: str) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "program.mlir"
            path.write_text(text)
            shell = command.replace("{}", str(path))
            return subprocess.run(["bash", "-c", shell], capture_output=True, check=False).returncode == 0

    return fails


def _property_judge(args: argparse.Namespace) -> Callable[[str], bool]:
    from warploom.codegen.backend import backend_of
    from warploom.passes.named import named_pass
    from warploom.tools.pass_failures import PROPERTIES, pass_failures

    step = named_pass(args.pass_, backend_of(args.target).target if args.target else None)
    if args.property is not None and args.property not in PROPERTIES:
        raise InvalidRequestError(
            f"there is no property {args.property!r}", expected=", ".join(PROPERTIES), found=args.property
        )

    def fails(text: str) -> bool:
        found = pass_failures(step, text)
        return args.property in found if args.property else bool(found)

    return fails
