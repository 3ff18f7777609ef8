"""The `warploom` command. A subcommand is a module of this folder, imported only when it is asked for.

Exit codes: 0 success, 1 unexpected failure, 2 an error that names its fix (or wrong usage), 130 interrupted,
141 the reader of our output went away.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from warploom.errors import WarploomError
from warploom.version import __version__

FAILED, REFUSED, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141


@dataclass(frozen=True)
class Command:
    """A subcommand. Its module offers `configure(parser)`, which adds arguments and `set_defaults(run=...)`."""

    module: str
    summary: str


COMMANDS = {
    "compile": Command("warploom.tools.compile", "compile a model ahead of time into an artifact"),
    "generate": Command("warploom.tools.generate", "answer prompts with an artifact"),
    "chat": Command("warploom.tools.chat", "talk with an artifact in the terminal"),
    "serve": Command("warploom.tools.serve", "serve an artifact over HTTP, as OpenAI's API"),
    "eval": Command("warploom.tools.eval", "measure how good an artifact's answers are"),
    "bench": Command("warploom.tools.bench", "measure an artifact on this machine"),
    "models": Command("warploom.tools.models", "list the model families that compile"),
    "tune": Command("warploom.tools.tune", "find the fastest tiles of an artifact's linear layers on a GPU"),
    "inspect": Command("warploom.tools.inspection", "show what is inside an artifact"),
    "opt": Command("warploom.tools.opt", "run passes on an IR program"),
    "run": Command("warploom.tools.run", "execute an IR program and compare ways to run it"),
    "diff": Command("warploom.tools.diff", "compare two artifacts or two IR programs"),
    "reduce": Command("warploom.tools.reduce", "shrink an IR program that fails"),
}

_EXAMPLES = """\
examples:
  warploom compile HuggingFaceTB/SmolLM2-135M-Instruct -o smollm2
  warploom generate smollm2 --chat "Why is the sky blue?"
  warploom chat smollm2
  warploom inspect smollm2 kernels

`warploom COMMAND --help` tells more.
"""


class _Parser(argparse.ArgumentParser):
    """Takes positional arguments wherever they stand: Python 3.11 alone ends `FILE [PASS ...]` at the first option."""

    _mixing = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse's own; of parsers that have commands of their own, that itself."""
        if self._mixing or any(action.nargs == argparse.PARSER for action in self._actions):
            return super().parse_known_args(args, namespace)
        self._mixing = True  # what follows calls this method
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._mixing = False


def build_parser(named: str | None) -> argparse.ArgumentParser:
    """Return the parser of the whole command line; only the command `named` gets its arguments."""
    common = _Parser(add_help=False)
    common.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="on failure, show the Python traceback"
    )
    parser = _Parser(
        prog="warploom",
        description="Compile a language model ahead of time; serve the artifact without PyTorch.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=f"warploom {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=command.summary,
            parents=[common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == named:
            import_module(command.module).configure(subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; `argparse` itself exits for `--help` and wrong usage."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    debug = "--debug" in arguments
    try:
        args = build_parser(named).parse_args(arguments)
        run: Callable[[argparse.Namespace], None] = args.run
        run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # What is left in the buffer has no reader: keep the interpreter from writing it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        return _report(error, debug)
    return 0


def _report(error: Exception, debug: bool) -> int:
    """Print an error on stderr; our own ones say what to do next, the system's what it refused, others ask for help."""
    if debug:
        traceback.print_exception(error)
    label = "\033[1;31merror:\033[0m" if sys.stderr.isatty() and "NO_COLOR" not in os.environ else "error:"
    if isinstance(error, WarploomError):
        print(label, error, file=sys.stderr)
        return REFUSED
    if isinstance(error, OSError) and error.strerror:
        print(label, f"{error.filename or 'the output'}: {error.strerror}", file=sys.stderr)
        print("  fix: check that path, its permissions, and the room on its disk", file=sys.stderr)
        return REFUSED
    print(label, f"{type(error).__name__}: {error}", file=sys.stderr)
    if not debug:
        print("  fix: this is a bug; run again with --debug and report the traceback", file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
