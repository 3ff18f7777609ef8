"""`warploom bench offline`: how many tokens per second when all requests are there at once."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from warploom.runtime.artifact import load as load_artifact
from warploom.runtime.cuda.device import CudaDevice
from warploom.runtime.devices import DeviceOptions, open_device
from warploom.runtime.engine_stats import EngineStats
from warploom.runtime.llm import LLM
from warploom.runtime.output import Completion
from warploom.tools.bench_plot import plot
from warploom.tools.device_flags import add_device_flags
from warploom.tools.latency import Spread, spread
from warploom.tools.speculation_flags import add_speculation, speculation_of
from warploom.tools.status import Told, counted, status
from warploom.tools.table import shown, table
from warploom.tools.timed_device import TimedDevice, TimedStep
from warploom.tools.workload import Load, Work, make_work, parse_load

_EXAMPLES = """\
examples:
  warploom bench offline llama-8b --load 128/128x1024 --load 2048/128x256
  warploom bench offline smollm2 --load sharegptx100 --json

A load is tokens in / tokens out x requests, of random tokens; `sharegpt` draws lengths that are spread like those of
chats. Token rates count the whole run, from the first request queued to the last token. TTFT: seconds until the first
token, all requests being queued at once; TPOT: (last token - first token) / (tokens - 1). On a GPU, `exposed` is the
time per step that it stood still because of the host, and steps are listed by what they computed.
"""


def _number(value: float) -> str:
    return f"{value:.0f}"


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:.0f} us"


@dataclass(frozen=True)
class LoadRow:
    """One load. `exposed` and `busy` (part of the time that the GPU worked) are known for GPUs only, else 0."""

    load: str
    requests: int
    ttft: Spread
    tpot: Spread
    steps: int
    preemptions: int
    accepted: str  # of drafted tokens
    seconds: float = shown(lambda value: f"{value:.2f}")
    output_tokens_per_second: float = shown(_number)
    total_tokens_per_second: float = shown(_number)
    requests_per_second: float = shown(lambda value: f"{value:.2f}")
    host: float = shown(_us)
    exposed: float = shown(_us)
    busy: float = shown(lambda value: f"{100 * value:.1f} %")


@dataclass(frozen=True)
class StepRow:
    """All steps of one kind on the GPU."""

    steps: str
    number: int
    sequences: float = shown(_number)
    tokens: float = shown(_number)
    each: float = shown(lambda seconds: f"{1e3 * seconds:.2f} ms")
    total: float = shown(lambda seconds: f"{seconds:.2f} s")
    of_all: float = shown(lambda part: f"{100 * part:.0f} %")
    exposed: float = shown(_us)
    launch: float = shown(_us)


@dataclass(frozen=True)
class Report:
    """What was measured."""

    artifact: str
    loads: list[LoadRow]
    steps: dict[str, list[StepRow]]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = "Answer many requests that are all there at once, and count tokens per second."
    parser.epilog = _EXAMPLES
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="the folder that `warploom compile` wrote")
    parser.add_argument(
        "--load", type=parse_load, action="append", metavar="IN/OUTxN", help="one or more (default: 128/128x256)"
    )
    parser.add_argument("--temperature", type=float, default=1.0, metavar="X", help="of sampling (default: 1)")
    parser.add_argument("--max-num-seqs", type=int, metavar="N", help="most requests computed in one step")
    parser.add_argument("--max-num-batched-tokens", type=int, metavar="N", help="most tokens of one step")
    parser.add_argument("--kv-cache-bytes", type=int, metavar="N", help="memory of the KV cache")
    add_device_flags(parser)
    add_speculation(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random tokens")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="also draw where the GPU's time goes")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure what a parsed command line asks for."""
    artifact = load_artifact(args.artifact)
    speculation = speculation_of(args)
    drafts = 0 if speculation is None else speculation.num_speculative_tokens
    options = DeviceOptions(
        args.threads, args.max_num_seqs, args.max_num_batched_tokens, args.kv_cache_bytes, num_drafts=drafts
    )
    device = open_device(artifact, args.device, options)
    timed = TimedDevice(device) if isinstance(device, CudaDevice) else None
    with LLM(artifact, device=timed or device, speculation=speculation) as llm:
        loads = args.load or [parse_load("128/128x256")]
        _answer(llm, _make(llm, Load("warm-up", (8, 4), 2), args))
        rows, steps = [], {}
        with status() as show:
            for one in loads:
                told = counted(show, f"requests of {one.name} answered")
                rows.append(_measure(llm, one, timed, args, told))
                if timed:
                    steps[one.name] = step_rows(timed.steps)
    report = Report(str(artifact.path), rows, steps)
    if args.json:
        print(msgspec.json.encode(report).decode())
    else:
        print("\n".join([table(rows), *(f"\n{name}\n{table(kinds)}" for name, kinds in steps.items())]))
    if args.plot:
        args.plot.write_text(plot({load: [(r.steps, r.total) for r in rows] for load, rows in steps.items()}))


def _make(llm: LLM, load: Load, args: argparse.Namespace) -> list[Work]:
    vocab_size = llm.artifact.manifest.vocab_size
    return make_work(load, vocab_size, llm.max_context, temperature=args.temperature, seed=args.seed)


def _answer(llm: LLM, work: Sequence[Work], told: Told | None = None) -> list[Completion]:
    return llm.generate([one.prompt for one in work], [one.params for one in work], progress=told)


def _measure(llm: LLM, load: Load, timed: TimedDevice | None, args: argparse.Namespace, told: Told) -> LoadRow:
    work = _make(llm, load, args)
    if timed:
        timed.restart()
    before = llm.stats()
    started = time.perf_counter()
    completions = _answer(llm, work, told)
    seconds = time.perf_counter() - started
    after = llm.stats()
    num_steps = after.steps - before.steps
    outputs = sum(len(one.token_ids) for one in completions)
    prompts = sum(len(one.prompt_token_ids) for one in completions)
    metrics = [one.metrics for one in completions]
    steps = timed.steps if timed else []
    return LoadRow(
        load=load.name,
        requests=len(completions),
        seconds=seconds,
        output_tokens_per_second=outputs / seconds,
        total_tokens_per_second=(outputs + prompts) / seconds,
        requests_per_second=len(completions) / seconds,
        ttft=spread([one.time_to_first_token for one in metrics]),
        tpot=spread([1 / one.tokens_per_second for one in metrics if one.tokens_per_second]),
        steps=num_steps,
        host=(after.host_seconds - before.host_seconds) / max(1, num_steps),
        exposed=sum(step.exposed for step in steps) / max(1, len(steps)),
        busy=sum(step.busy for step in steps) / seconds,
        preemptions=after.preemptions - before.preemptions,
        accepted=_accepted(before, after),
    )


def _accepted(before: EngineStats, after: EngineStats) -> str:
    """How many drafted tokens became output, and how many tokens a verification gave."""
    drafts, drafted = after.drafts - before.drafts, after.draft_tokens - before.draft_tokens
    if not drafts:
        return "-"
    accepted = after.accepted_tokens - before.accepted_tokens
    return f"{accepted} of {drafted}, {1 + accepted / drafts:.2f} a step"


def step_rows(steps: Sequence[TimedStep]) -> list[StepRow]:
    """Sum steps up by what they computed; the most costly kind comes first."""
    kinds: dict[str, list[TimedStep]] = {}
    for step in steps:
        kinds.setdefault(_kind(step), []).append(step)
    whole = sum(step.busy for step in steps)
    rows = [_step_row(kind, same, whole) for kind, same in kinds.items()]
    return sorted(rows, key=lambda row: -row.total)


def _kind(step: TimedStep) -> str:
    """Decodes by the next power of two of their number, others by that of their tokens."""
    if step.num_tokens == step.num_seqs:
        return f"decode <= {1 << (step.num_seqs - 1).bit_length()}"
    if step.num_tokens == step.num_rows:
        return f"with drafts, <= {1 << (step.num_tokens - 1).bit_length()} tokens"
    return f"with prompts, <= {1 << (step.num_tokens - 1).bit_length()} tokens"


def _step_row(kind: str, same: Sequence[TimedStep], whole: float) -> StepRow:
    number, total = len(same), sum(step.busy for step in same)
    return StepRow(
        steps=kind,
        number=number,
        sequences=sum(step.num_seqs for step in same) / number,
        tokens=sum(step.num_tokens for step in same) / number,
        each=total / number,
        total=total,
        of_all=total / whole,
        exposed=sum(step.exposed for step in same) / number,
        launch=sum(step.launch for step in same) / number,
    )
