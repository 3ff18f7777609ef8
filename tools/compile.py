"""`warploom compile`: a model in, an artifact out, with its progress on the terminal."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from types import FrameType
from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from warploom.errors import CompileError
from warploom.tools.plugin_flag import add_plugin_flag
from warploom.tools.reports import Summary, summarize
from warploom.tools.table import count, size
from warploom.tools.text_files import read_text

if TYPE_CHECKING:
    from warploom.runtime.artifact import Artifact

SECONDS_BETWEEN_LINES = 30.0
TERMINATED = 128 + signal.SIGTERM  # the exit code that a shell shows for a process that it ended
_EXAMPLES = """\
examples:
  warploom compile HuggingFaceTB/SmolLM2-135M-Instruct -o smollm2
  warploom compile ./my-llama --quantization int8 --max-context 4096
  warploom compile model.Q4_K_M.gguf --quantization int8 --json
  warploom compile ./my-llama --target cpu --target cuda:sm_80 --target cuda:sm_90
  warploom compile ./config-of-8b --target cuda:sm_90 --dummy-weights

No GPU is needed, and no PyTorch. The artifact is complete: copy the folder to where it is served.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = "Compile a model ahead of time into an artifact: a folder with code, weights and tokenizer."
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a Hugging Face hub id, possibly with @revision, a folder in Hugging Face's layout, or a .gguf file",
    )
    parser.add_argument(
        "--target",
        action="append",
        metavar="NAME",
        help="what to compile for: cpu (default), or a GPU: cuda:sm_90; may be given several times",
    )
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="CUDA: a request's tokens never depend on its neighbours in the batch (slower)",
    )
    parser.add_argument(
        "--quantization",
        default="bf16",
        metavar="SCHEME",
        help="how weights are stored: bf16 (default), f32, int8, int4, fp8 or checkpoint, with options such as "
        "int4:g64:zeros; or by module: lm_head=bf16,*=int4 (see docs/quantization.md)",
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="a text for schemes that want one, such as int4:awq, or for an fp8 cache; -: standard input",
    )
    parser.add_argument(
        "--kv-cache",
        default="auto",
        choices=["auto", "fp8", "int8"],
        help="a cache of half the size: fp8 (CUDA, sm_89 on; CPU, slow), int8",
    )
    parser.add_argument(
        "--max-context", type=int, metavar="N", help="most tokens of one sequence (default: what the model can)"
    )
    parser.add_argument(
        "--dummy-weights",
        action="store_true",
        help="read only config.json; weights are random numbers made at load, to measure speed",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="OUT",
        help="the artifact's folder; an artifact that is there is replaced "
        "(default: <model name>-<quantization>.warploom in the working directory)",
    )
    add_plugin_flag(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Compile the model of a parsed command line and print what came out."""
    started = time.perf_counter()
    compile_model = _compiler()
    with _leaving_nothing_when_terminated(), _progress() as progress:
        artifact = compile_model(
            args.model,
            target=args.target or "cpu",
            deterministic=args.deterministic,
            quantization=args.quantization,
            kv_cache=args.kv_cache,
            calibration=None if args.calibration is None else read_text(args.calibration),
            out=args.out,
            max_context=args.max_context,
            dummy_weights=args.dummy_weights,
            plugins=args.plugin,
            progress=progress,
        )
    summary, seconds = summarize(artifact), time.perf_counter() - started
    if args.json:
        print(msgspec.json.encode({"seconds": seconds, **msgspec.to_builtins(summary)}).decode())
    else:
        print(_closing(summary, seconds))


def _compiler() -> Callable[..., Artifact]:
    """`warploom.compile`; a serving install does not have it."""
    try:
        from warploom.compiler import compile
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("warploom"):
            raise
        raise CompileError(
            "This installation of warploom can serve artifacts but not compile models",
            expected="the packages of the extra [compile]",
            found=f"no package {error.name}",
            fix="pip install 'warploom[compile]'",
        ) from error
    return compile


@contextmanager
def _leaving_nothing_when_terminated() -> Iterator[None]:
    """Let SIGTERM unwind the stack, as Ctrl-C does, so that the unfinished artifact is removed."""

    def leave(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A callback whose last report is drawn on stderr; without a terminal, a line of it every half minute."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True) as display:
        task = display.add_task("starting", total=1.0)
        yield lambda stage, fraction: display.update(task, description=f"{stage:<24}", completed=fraction)


class _Lines:
    """Prints where a long compilation is, for logs."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, stage: str, fraction: float) -> None:
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            print(f"{stage}: {fraction:.0%}", file=sys.stderr, flush=True)


def program() -> str:
    """Return how this command is called from here: by its path, if it was called so and is not on PATH."""
    called = Path(sys.argv[0])
    return quote(str(called)) if called.name == "warploom" and shutil.which("warploom") is None else "warploom"


def _closing(summary: Summary, seconds: float) -> str:
    sizes, chat = summary.bytes, "--chat " if summary.chat else ""
    return "\n".join(
        [
            f"compiled {summary.model} in {seconds:.1f} s",
            f"  weights   {size(sizes.weights)} ({summary.quantization}, {count(summary.num_parameters)} parameters)",
            f"  code      {size(sizes.code)} ({summary.num_kernels} kernels, {', '.join(summary.variants)})",
            f"  artifact  {summary.path} ({size(sizes.total)})",
            f"try: {program()} generate {quote(summary.path)} {chat}'Why is the sky blue?'",
        ]
    )
