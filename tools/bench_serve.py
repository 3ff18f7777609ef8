"""`warploom bench serve`: what users see while requests arrive over time."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import msgspec
import numpy as np

from warploom.errors import InvalidRequestError
from warploom.runtime.artifact import load as load_artifact
from warploom.runtime.async_llm import AsyncLLM
from warploom.tools.bench_plot import plot
from warploom.tools.device_flags import add_device_flags
from warploom.tools.latency import Spread, spread
from warploom.tools.request_times import Answerer, InProcess, OverHttp, RequestTimes
from warploom.tools.status import Told, counted, status
from warploom.tools.table import shown, table
from warploom.tools.workload import Work, make_work, parse_load

_EXAMPLES = """\
examples:
  warploom bench serve smollm2 --load sharegptx100 --rate 1,2,inf
  warploom bench serve llama-8b --url http://127.0.0.1:8000 --model llama-8b --rate 16 --slo-ttft 500 --slo-tpot 30

Without --url the model runs in this process, without HTTP; the artifact is needed with it, too, for its vocabulary.
Requests arrive as a Poisson process. TTFT: from sending to the first piece; ITL: between pieces; TPOT: (last piece -
first piece) / (tokens - 1); times are p50 / p99 in milliseconds. Goodput: requests per second that met both bounds.
"""


def _rate(value: float) -> str:
    return f"{value:.2f}"


@dataclass(frozen=True)
class ServeRow:
    """One arrival rate, in requests per second."""

    rate: float
    requests: int
    failed: int
    ttft: Spread
    tpot: Spread
    itl: Spread
    total: Spread
    seconds: float = shown(_rate)
    requests_per_second: float = shown(_rate)
    output_tokens_per_second: float = shown(lambda value: f"{value:.0f}")
    goodput: float = shown(_rate)


@dataclass(frozen=True)
class Bounds:
    """What a good answer keeps to, in seconds."""

    ttft: float
    tpot: float


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.description = "Send requests over time, and measure how their answers come."
    parser.epilog = _EXAMPLES
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT", help="the folder that `warploom compile` wrote")
    parser.add_argument("--load", type=parse_load, default="sharegptx200", metavar="IN/OUTxN", help="see bench offline")
    parser.add_argument("--rate", type=_rates, default=[float("inf")], metavar="R,...", help="requests per second")
    parser.add_argument("--max-concurrency", type=int, metavar="N", help="most requests sent and not yet answered")
    parser.add_argument("--slo-ttft", type=float, default=500.0, metavar="MS", help="bound of goodput (default: 500)")
    parser.add_argument("--slo-tpot", type=float, default=50.0, metavar="MS", help="bound of goodput (default: 50)")
    parser.add_argument("--url", metavar="URL", help="measure a server with OpenAI's API")
    parser.add_argument("--model", metavar="NAME", help="with --url: the model's name (default: the folder's)")
    parser.add_argument("--api-key", metavar="KEY", help="with --url")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="X", help="of sampling (default: 1)")
    parser.add_argument("--max-num-seqs", type=int, metavar="N", help="most requests computed in one step")
    parser.add_argument("--max-num-batched-tokens", type=int, metavar="N", help="most tokens of one step")
    add_device_flags(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of tokens and arrivals")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="also draw where the time of requests goes")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Measure what a parsed command line asks for."""
    with status() as show:
        rows = asyncio.run(_run(args, show))
    print(msgspec.json.encode(rows).decode() if args.json else table(rows))
    if args.plot:
        bars = {f"rate {row.rate:g}": _pieces(row) for row in rows}
        args.plot.write_text(plot(bars))


async def _run(args: argparse.Namespace, show: Callable[[str], None]) -> list[ServeRow]:
    artifact = load_artifact(args.artifact)
    manifest = artifact.manifest
    work = make_work(args.load, manifest.vocab_size, manifest.max_context, temperature=args.temperature, seed=args.seed)
    if args.url:
        name = args.model or args.artifact.resolve().name
        return await _measure_all(OverHttp(args.url, name, args.api_key), work, args, show)
    llm = AsyncLLM.load(
        artifact,
        device=args.device,
        threads=args.threads,
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens,
        max_queue=len(work),
    )
    async with llm:
        return await _measure_all(InProcess(llm), work, args, show)


async def _measure_all(
    answerer: Answerer, work: Sequence[Work], args: argparse.Namespace, show: Callable[[str], None]
) -> list[ServeRow]:
    first = await answerer.answer(work[0])  # whatever is slow once
    if first.error:
        raise InvalidRequestError("The first request failed", found=first.error)
    bounds = Bounds(args.slo_ttft / 1e3, args.slo_tpot / 1e3)
    rows = []
    for rate in args.rate:
        arrivals = arrival_times(rate, len(work), args.seed)
        started = time.perf_counter()
        told = counted(show, f"requests answered at rate {rate:g}")
        times = await send(answerer, work, arrivals, args.max_concurrency or len(work), told)
        rows.append(serve_row(rate, times, time.perf_counter() - started, bounds))
    return rows


def arrival_times(rate: float, number: int, seed: int) -> list[float]:
    """Return when each request arrives, in seconds from the start: exponential gaps; all at once if `rate` is inf."""
    if np.isinf(rate):
        return [0.0] * number
    gaps = np.random.default_rng(seed).exponential(1 / rate, number)
    gaps[0] = 0.0
    return [float(one) for one in np.cumsum(gaps)]


async def send(
    answerer: Answerer,
    work: Sequence[Work],
    arrivals: Sequence[float],
    concurrency: int,
    told: Told = lambda done, total: None,
) -> list[RequestTimes]:
    """Send every request when it arrives, unless `concurrency` others are unanswered, and return their times.

    Args:
        told: how many are answered, and how many there are; whenever one is.
    """
    places, answered = asyncio.Semaphore(concurrency), count(1)
    started = time.perf_counter()

    async def one(request: Work, arrival: float) -> RequestTimes:
        await asyncio.sleep(max(0.0, started + arrival - time.perf_counter()))
        async with places:
            times = await answerer.answer(request)
        told(next(answered), len(work))
        return times

    return list(await asyncio.gather(*(one(*pair) for pair in zip(work, arrivals, strict=True))))


def serve_row(rate: float, times: Sequence[RequestTimes], seconds: float, bounds: Bounds) -> ServeRow:
    """Sum the times of requests up."""
    good = [one for one in times if one.error is None and one.pieces]
    met = [one for one in good if one.ttft <= bounds.ttft and one.tpot <= bounds.tpot]
    return ServeRow(
        rate=rate,
        requests=len(times),
        failed=len(times) - len(good),
        seconds=seconds,
        requests_per_second=len(good) / seconds,
        output_tokens_per_second=sum(one.num_tokens for one in good) / seconds,
        ttft=spread([one.ttft for one in good]),
        tpot=spread([one.tpot for one in good if one.num_tokens > 1]),
        itl=spread([gap for one in good for gap in one.gaps]),
        total=spread([one.total for one in good]),
        goodput=len(met) / seconds,
    )


def _pieces(row: ServeRow) -> list[tuple[str, float]]:
    return [("until the first token", row.ttft.mean), ("from the first to the last", row.total.mean - row.ttft.mean)]


def _rates(text: str) -> list[float]:
    """`1,8,inf` as numbers."""
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = [0.0]
    if not all(rate > 0 for rate in rates):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 1,8,inf")
    return rates
