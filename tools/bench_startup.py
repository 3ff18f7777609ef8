"""`warploom bench startup`: seconds from the start of a process to its first token, stage by stage."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec

from warploom.errors import EngineError, InvalidRequestError
from warploom.runtime.artifact import load
from warploom.tools.bench_plot import plot
from warploom.tools.table import shown, table

_EXAMPLES = """\
examples:
  warploom bench startup llama-8b --runs 3

Each run is a new Python process that opens the artifact and answers one request. The first run may read files from
the disk, the others find them in the page cache. `total` ends with the first token.
"""

# Times are of `time.time`, so that the parent's count, too.
_CHILD = """
import json, sys, time
began = time.time()
import warploom
from warploom.runtime.llm import LLM
from warploom.runtime.sampling_params import SamplingParams
imported = time.time()
llm = LLM(sys.argv[1], device=sys.argv[2] or None)
opened = time.time()
next(llm.stream([0] * 16, SamplingParams(temperature=0, max_tokens=2, ignore_eos=True)))
first = time.time()
laps = getattr(llm.device, "load_seconds", {})
print(json.dumps({"began": began, "imported": imported, "opened": opened, "first": first, "laps": laps}))
"""


def _seconds(value: float) -> str:
    return f"{value:.2f} s"


@dataclass(frozen=True)
class StartRow:
    """One run."""

    run: str
    stages: str
    interpreter: float = shown(_seconds)
    imports: float = shown(_seconds)
    opening: float = shown(_seconds)
    first_token: float = shown(_seconds)
    total: float = shown(_seconds)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = "Time the start of new processes."
    parser.epilog = _EXAMPLES
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="the folder that `warploom compile` wrote")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="processes (default: 3)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the GPU if artifact and machine have one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="also draw where the time goes")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure what a parsed command line asks for."""
    if args.runs < 1:
        raise InvalidRequestError("There is nothing to time", expected="--runs of at least 1", found=str(args.runs))
    load(args.artifact)  # what is wrong with it is said here, not by a process
    rows = [_start(str(number + 1), args.artifact, args.device) for number in range(args.runs)]
    if args.json:
        print(msgspec.json.encode(rows).decode())
    else:
        print(f"{table(rows)}\nmedian total {median(row.total for row in rows):.2f} s")
    if args.plot:
        args.plot.write_text(plot({f"run {row.run}": _pieces(row) for row in rows}))


def _pieces(row: StartRow) -> list[tuple[str, float]]:
    return [(name, getattr(row, name)) for name in ("interpreter", "imports", "opening", "first_token")]


def _start(name: str, artifact: Path, device: str | None) -> StartRow:
    began = time.time()
    command = [sys.executable, "-c", _CHILD, str(artifact.resolve()), device or ""]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode != 0:
        raise EngineError("The process that was to be timed failed", found=done.stderr[-2000:])
    times = msgspec.json.decode(done.stdout.splitlines()[-1])
    return StartRow(
        run=name,
        interpreter=times["began"] - began,
        imports=times["imported"] - times["began"],
        opening=times["opened"] - times["imported"],
        first_token=times["first"] - times["opened"],
        total=times["first"] - began,
        stages=", ".join(f"{stage} {seconds:.2f}" for stage, seconds in times["laps"].items()),
    )
