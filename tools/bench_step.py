"""`warploom bench step`: the time of single steps beside the limit that bytes and flops set, kernel by kernel."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec

from warploom.passes.cost import Device as CostDevice
from warploom.passes.cost import device_named, step_us
from warploom.runtime.artifact import Artifact, load
from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.cuda.profile import StepTime, copy_bandwidth, fill_cache, time_kernels, time_step
from warploom.runtime.device import Device
from warploom.runtime.devices import DeviceOptions, open_device
from warploom.runtime.step_batch import StepBatch
from warploom.tools.bench_plot import plot
from warploom.tools.device_flags import add_device_flags
from warploom.tools.number_flags import parse_positive
from warploom.tools.status import status
from warploom.tools.step_limits import Limits, Timed, beside_predictions, limits_of
from warploom.tools.synthetic import ragged_batch
from warploom.tools.table import count, shown, size, table

_EXAMPLES = """\
examples:
  warploom bench step llama-8b --batch 1,8,32,128 --context 256 --prefill 1024,4096
  warploom bench step llama-8b --batch 1 --prefill "" --json --plot step.svg

Weights and cache are as large as in service, so they are not in any cache. `limit` is the time that the bytes take at
the memory's measured read rate, or the flops at the measured matrix rate, whichever is longer; of a step: the sum.
`gpu` is the time of the step on the GPU; `pipelined` is the time from step to step with the next one launched ahead.
`predicted` is what the compiler's cost model says (see docs/cost-model.md), and `off` how far that is from the time
beside it. Kernels are timed apart; in a step each begins while the one before ends.
"""

UNKNOWN = "-"
_PROMPTS = (1024, 4096)
CLOSE = 0.15  # what a prediction may be off by


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms" if seconds else UNKNOWN


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:.1f} us"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if fraction else UNKNOWN


def _off(fraction: float | None) -> str:
    return UNKNOWN if fraction is None else f"{100 * fraction:+.0f} %"


def _size(num_bytes: int) -> str:
    return size(num_bytes) if num_bytes else UNKNOWN


def _count(number: int) -> str:
    return count(number) if number else UNKNOWN


@dataclass(frozen=True)
class StepRow:
    """One step. On the CPU only `alone` is known: the others are 0. `off`: how far the prediction is, a fraction."""

    step: str
    gpu: float = shown(_ms)
    predicted: float = shown(_ms)
    off: float | None = shown(_off)
    limit: float = shown(_ms)
    of_limit: float = shown(_percent)
    pipelined: float = shown(_ms)
    alone: float = shown(_ms)
    bytes: int = shown(_size)
    flops: int = shown(_count)
    tokens_per_second: float = shown(lambda rate: f"{rate:.0f}")


@dataclass(frozen=True)
class KernelRow:
    """All launches of one kernel in one step."""

    kernel: str
    launches: int
    each: float = shown(_us)
    predicted: float = shown(lambda seconds: _us(seconds) if seconds else UNKNOWN)
    off: float | None = shown(_off)
    total: float = shown(_us)
    of_step: float = shown(_percent)
    of_limit: float = shown(_percent)
    bytes: int = shown(size)
    flops: int = shown(count)


@dataclass(frozen=True)
class Report:
    """What was measured, and where. `close`: the part of the kernels whose times were predicted within 15 %."""

    artifact: str
    device: str
    target: str
    limits: Limits | None
    steps: list[StepRow]
    kernels: dict[str, list[KernelRow]]
    close: float | None = None


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = "Time decode steps and prefills, whole and kernel by kernel, beside the machine's limits."
    parser.epilog = _EXAMPLES
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="the folder that `warploom compile` wrote")
    parser.add_argument("--batch", type=_numbers, default=[1, 8, 32, 128], metavar="N,...", help="decode: sequences")
    parser.add_argument(
        "--context", type=parse_positive, default=256, metavar="N", help="decode: tokens of each sequence"
    )
    parser.add_argument(
        "--prefill",
        type=_numbers,
        metavar="N,...",
        help="prompt lengths (default: 1024 and 4096, if a step takes them)",
    )
    parser.add_argument("--temperature", type=float, default=1.0, metavar="X", help="of sampling (default: 1)")
    parser.add_argument(
        "--repeats", type=parse_positive, default=20, metavar="N", help="runs of which medians are taken"
    )
    add_device_flags(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="also draw where the time goes")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure what a parsed command line asks for."""
    artifact = load(args.artifact)
    args.prefill = _usual_prompts(artifact) if args.prefill is None else args.prefill
    most = max([*args.batch, 1])
    options = DeviceOptions(args.threads, max_seqs=most, max_tokens=max([*args.prefill, most]))
    device = open_device(artifact, args.device, options)
    try:
        with status() as show:
            report = measure(artifact, device, args, show)
    finally:
        device.close()
    if args.json:
        print(msgspec.json.encode(report).decode())
    else:
        _print(report)
    if args.plot:
        args.plot.write_text(plot({name: [(r.kernel, r.total) for r in rows] for name, rows in report.kernels.items()}))


def _usual_prompts(artifact: Artifact) -> list[int]:
    """Lengths that one step of any of the artifact's targets takes, and the model."""
    steps = [artifact.plan(target).entries["step"] for target in artifact.manifest.targets]
    most = min(artifact.manifest.max_context, *(step.dims["T"].max for step in steps))
    return [length for length in _PROMPTS if length <= most] or [most]


def _print(report: Report) -> None:
    if report.limits:
        peak = "".join(f"; {name} {flops / 1e12:.0f} Tflop/s" for name, flops in report.limits.flops.items())
        rates = f"copy {report.limits.copy_bytes / 1e12:.2f} TB/s, read {report.limits.read_bytes / 1e12:.2f} TB/s"
        print(f"{report.device}, {report.target}: {rates}{peak}\n")
    print(table(report.steps))
    for step, rows in report.kernels.items():
        print(f"\n{step}\n{table(rows)}")
    if report.close is not None:
        print(f"\n{100 * report.close:.0f} % of the kernels took within {100 * CLOSE:.0f} % of what was predicted")


def measure(
    artifact: Artifact, device: Device, args: argparse.Namespace, show: Callable[[str], None] = lambda text: None
) -> Report:
    """Run every step that a parsed command line asks for on an open device; `show` is told what runs."""
    batches = dict(_batches(device, artifact, args))
    if isinstance(device, CudaDevice):
        return _measure_gpu(artifact, device, batches, args.repeats, show)
    rows = []
    for name, batch in batches.items():
        show(name)
        rows.append(_cpu_row(device, name, batch, args.repeats))
    return Report(str(artifact.path), "cpu", "cpu", None, rows, {})


def _batches(device: Device, artifact: Artifact, args: argparse.Namespace) -> Iterator[tuple[str, StepBatch]]:
    vocab = artifact.manifest.vocab_size
    for rows in args.batch:
        contexts = [args.context] * rows
        yield (
            f"decode {rows} at {args.context}",
            ragged_batch(device, vocab, [1] * rows, contexts, temperature=args.temperature, seed=rows),
        )
    for tokens in args.prefill:
        yield (
            f"prefill {tokens}",
            ragged_batch(device, vocab, [tokens], [tokens], temperature=args.temperature, seed=tokens),
        )


def _measure_gpu(
    artifact: Artifact,
    device: CudaDevice,
    batches: dict[str, StepBatch],
    repeats: int,
    show: Callable[[str], None],
) -> Report:
    fill_cache(device)
    known = device_named(device.gpu.name)
    limits = limits_of(copy_bandwidth(device), known)
    steps, kernels = [], {}
    for name, batch in batches.items():
        show(name)
        timed = time_step(device, batch, repeats, time.perf_counter)
        launches = beside_predictions(device.program.plan, time_kernels(device, batch, repeats), known)
        steps.append(_step_row(name, len(batch.token_ids), timed, launches, limits, known))
        kernels[name] = _kernel_rows(launches, limits)
    rows = [row for of_step in kernels.values() for row in of_step]
    return Report(str(artifact.path), device.gpu.name, device.target, limits, steps, kernels, _close(rows))


def _close(rows: Sequence[KernelRow]) -> float | None:
    errors = [abs(row.off) for row in rows if row.off is not None]
    return sum(error <= CLOSE for error in errors) / len(errors) if errors else None


def _step_row(
    name: str, num_tokens: int, timed: StepTime, launches: Sequence[Timed], limits: Limits, known: CostDevice | None
) -> StepRow:
    works = [launch.work for launch in launches]
    limit = sum(limits.seconds(work) for work in works)
    predicted = 0.0 if known is None else step_us(works, known) / 1e6
    return StepRow(
        step=name,
        gpu=timed.gpu,
        predicted=predicted,
        off=None if known is None else predicted / timed.gpu - 1,
        limit=limit,
        of_limit=limit / timed.gpu,
        pipelined=timed.pipelined,
        alone=timed.alone,
        bytes=int(sum(work.bytes for work in works)),
        flops=int(sum(work.flops for work in works)),
        tokens_per_second=num_tokens / timed.pipelined,
    )


def _kernel_rows(launches: Sequence[Timed], limits: Limits) -> list[KernelRow]:
    """One row per kernel, the longest first."""
    by_kernel: dict[str, list[Timed]] = {}
    for launch in launches:
        by_kernel.setdefault(launch.kernel, []).append(launch)
    whole = sum(launch.seconds for launch in launches)
    rows = [_kernel_row(kernel, same, whole, limits) for kernel, same in by_kernel.items()]
    return sorted(rows, key=lambda row: -row.total)


def _kernel_row(kernel: str, same: Sequence[Timed], whole: float, limits: Limits) -> KernelRow:
    total = sum(launch.seconds for launch in same)
    predicted = sum(launch.predicted or 0.0 for launch in same)
    return KernelRow(
        kernel=kernel,
        launches=len(same),
        each=total / len(same),
        predicted=predicted / len(same),
        off=predicted / total - 1 if predicted else None,
        total=total,
        of_step=total / whole,
        of_limit=sum(limits.seconds(launch.work) for launch in same) / total,
        bytes=int(sum(launch.work.bytes for launch in same)),
        flops=int(sum(launch.work.flops for launch in same)),
    )


def _cpu_row(device: Device, name: str, batch: StepBatch, repeats: int) -> StepRow:
    times = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        device.execute(batch)
        times.append(time.perf_counter() - started)
    alone = median(times[1:])
    return StepRow(name, 0.0, 0.0, None, 0.0, 0.0, 0.0, alone, 0, 0, len(batch.token_ids) / alone)


def _numbers(text: str) -> list[int]:
    """`1,8,32` as a list; nothing as none."""
    try:
        return [parse_positive(part) for part in text.split(",") if part.strip()]
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 1,8,32") from None
