"""Check and time the linear kernels that `build_linear.py` compiled. Runs on the GPU machine.

    python -m tests.gpu.run_linear FOLDER OUT [--sweep] [--only check|bench] [--small]

needs cuda-bindings; torch allocates, draws random numbers and is the oracle (f64). Timed: graphs of many launches of
our kernels with programmatic dependent launch, over weights that rotate through more than L2, medians. Writes JSON to
OUT and prints tables; a program that fails is reported and the rest goes on. Exit status 1 if a check failed.
--small checks one program of a kind for each layer: for compute-sanitizer (see sanitize.py).
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from tests.gpu import arguments
from tests.gpu.linear_programs import (
    Arrays,
    Bench,
    Row,
    addresses,
    in_range,
    label,
    make_arrays,
    makes_bf16,
    reference,
    rounded_by,
)
from tests.gpu.rounded_rows import wrong_rows
from warploom.tools.tuning_runs import ROTATED, room_of, timed_tokens

BANDWIDTH = 3.17e12  # bytes/s, measured read stream of an H100
PEAK = 798e12  # flop/s, measured cuBLAS bf16 8192^3 on random data
CHECKED_TOKENS = (1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 64, 65, 100, 128, 256, 300, 512, 2048, 4096)
SMALL_TOKENS = (1, 13, 35, 130)  # one for each kernel of a few tokens, and one for the others
TIMED_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


def checked_programs(programs: list[Row], small: bool) -> list[Row]:
    """Those to check; of `small`, the first of each kind of kernel for each layer."""
    found = [p for p in programs if p["use"] == "check"]
    if not small:
        return found
    of_small = [p for p in found if not p["name"].startswith("invariant")]
    kinds = {(p["name"], p["choice"]["tile"]["type"], len(p["steps"])): p for p in reversed(of_small)}
    return list(reversed(kinds.values()))


def check(bench: Bench, small: bool) -> list[Row]:
    """The checked programs against f64, for every number of tokens in their ranges; for one or two if `small`."""
    rows = []
    tokens, room = (SMALL_TOKENS, max(SMALL_TOKENS)) if small else (CHECKED_TOKENS, 4224)
    for program in checked_programs(bench.programs, small):
        try:
            rows += check_program(bench, program, tuple(in_range(program, tokens)), room)
        except Exception as error:
            rows.append({"name": program["name"], "program": label(program), "failures": [f"{error}"]})
            traceback.print_exc()
    return rows


def check_program(bench: Bench, program: Row, counts: tuple[int, ...], limit: int) -> list[Row]:
    """One row of findings for each number of tokens; arrays have room for `limit`."""
    p = program["problem"]
    torch.manual_seed(0)
    arrays, (weight,) = make_arrays(p, limit)
    arrays |= weight
    rows = []
    last = bench.infos[program["steps"][-1]["kernel"]]["operands"][program["steps"][-1]["operands"].index("out")]
    by_tma = last["kind"] == "tensormap"  # may write leftovers past the tokens
    for tokens in counts:
        failures = []
        x = arrays["x"].clone()
        arrays["x"][tokens:] = float("nan")  # leftovers
        arrays["out"].fill_(float("nan"))
        temps = bench.temps(program, limit)
        launches = bench.launches(program, addresses(arrays), [temp.data_ptr() for temp in temps], tokens, limit)
        runs = []
        for _ in range(2):
            torch.cuda.synchronize()
            for launch in launches:
                launch(bench.stream)
            torch.cuda.synchronize()
            runs.append(arrays["out"].clone())
        unpacked = makes_bf16(program)
        rounded = rounded_by(program, temps, tokens)
        if rounded:
            failures += wrong_rows(arrays["x"][:tokens], p["norm"], arrays["gain"], rounded)
        expected = reference(program, arrays, tokens, unpacked, rounded)
        scale = expected.square().mean().sqrt()
        wrong = ((runs[0][:tokens].double() - expected).abs() / (scale + expected.abs() / 4)).nan_to_num(1e9)
        if wrong.max() > 0.03 or wrong.mean() > 0.004:
            failures.append(f"error {wrong.max():.3g} (mean {wrong.mean():.3g})")
        if not torch.equal(runs[0][:tokens], runs[1][:tokens]):
            failures.append("two runs differ")
        if not by_tma and not runs[0][tokens:].isnan().all():
            failures.append("rows past the tokens were written")
        arrays["x"] = x
        rows.append(
            {
                "name": program["name"],
                "program": label(program),
                "tokens": tokens,
                "error": float(wrong.max()),
                "failures": failures,
                "row": sha256(runs[0][0].view(torch.uint8).cpu().numpy()).hexdigest(),
            }
        )
        if failures:
            print("FAILED", program["name"], label(program), tokens, failures, flush=True)
    return rows


def time_program(bench: Bench, program: Row, data: tuple[Arrays, list[Arrays]], tokens: int, limit: int) -> float:
    """Microseconds of one run of a program."""
    arrays, weights = data
    temps = bench.temps(program, limit)
    each = [addresses(arrays | weight) for weight in weights]
    return 1e6 * bench.seconds(program, each, [temp.data_ptr() for temp in temps], tokens, limit)


def time_torch(bench: Bench, data: tuple[Any, list[Any]], tokens: int) -> float:
    """The same of cuBLAS, the product alone; of bf16."""
    arrays, weights = data[0], [weight["w"] for weight in data[1]]
    if weights[0].dtype is not torch.bfloat16:
        return float("nan")
    x = arrays["x"][:tokens].bfloat16()
    runs = max(len(weights), 8)
    for w in weights[:1]:
        torch.nn.functional.linear(x, w)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=bench.torch_stream):
        for run in range(runs):
            torch.nn.functional.linear(x, weights[run % len(weights)])
    with torch.cuda.stream(bench.torch_stream):
        graph.replay()
        found = bench.timer.times(graph.replay, 7)
    return found[len(found) // 2] / runs


def measured(program: Row, tokens: int, us: float) -> Row:
    p = program["problem"]
    flops = 2 * p["n"] * p["k"] * tokens
    moved = p["weight_bytes"] + 2 * tokens * (p["k"] + p["width"])
    limit = max(flops / PEAK, moved / BANDWIDTH) * 1e6
    return {
        "name": program["name"],
        "key": program["key"],
        "tokens": tokens,
        "us": us,
        "tbps": moved / us / 1e6,
        "tflops": flops / us / 1e6,
        "of_limit": limit / us,
        "program": label(program),
        "choice": program["choice"],
    }


def benchmark(bench: Bench, use: str, seconds: float) -> list[Row]:
    """Time all programs of one use, shape by shape."""
    rows: list[Row] = []
    names = list(dict.fromkeys(p["name"] for p in bench.programs if p["use"] == use))
    deadline = time.monotonic() + seconds
    for name in names:
        programs = [p for p in bench.programs if p["use"] == use and p["name"] == name]
        p = programs[0]["problem"]
        limit = room_of(programs[0])
        data = make_arrays(p, limit, max(1, ROTATED // p["weight_bytes"] + 1))
        torch_us: dict[int, float] = {}
        for program in programs:
            swept = tuple(timed_tokens(program)) if use == "sweep" else TIMED_TOKENS
            for tokens in in_range(program, tuple(t for t in swept if t <= limit)):
                if time.monotonic() > deadline:
                    print(f"out of time in {name}", flush=True)
                    return rows
                try:
                    if tokens not in torch_us:
                        torch_us[tokens] = time_torch(bench, data, tokens)
                    us = time_program(bench, program, data, tokens, limit)
                    rows.append(measured(program, tokens, us) | {"cublas_us": torch_us[tokens]})
                except Exception as error:
                    print("FAILED", name, label(program), tokens, error, flush=True)
        torch.cuda.synchronize()
        bench.drop_kernels()
        del data
        torch.cuda.empty_cache()
    return rows


def show(rows: list[Row]) -> None:
    print(f"{'layer':14} {'T':>5} {'us':>9} {'TB/s':>6} {'TFLOP/s':>8} {'of limit':>8} {'cuBLAS us':>9}  kernel")
    for r in sorted(rows, key=lambda r: (r["name"].startswith("smol"), r["key"], r["tokens"], r["us"])):
        print(
            f"{r['name']:14} {r['tokens']:5} {r['us']:9.2f} {r['tbps']:6.2f} {r['tflops']:8.1f} "
            f"{r['of_limit']:8.1%} {r['cublas_us']:9.2f}  {r['program']}"
        )


def best(rows: list[Row], keep: int = 3) -> list[Row]:
    """The fastest few for each layer and number of tokens."""
    found: dict[tuple[str, int], list[Row]] = {}
    for row in sorted(rows, key=lambda r: r["us"]):
        found.setdefault((row["name"], row["tokens"]), []).append(row)
    return [row for rows in found.values() for row in rows[:keep]]


def show_invariance(rows: list[Row]) -> int:
    """Which programs give the same bits for the first row, whatever the tokens, and whatever the program.

    Returns:
        How many of the layers that must have one first row have several.
    """
    broken = 0
    for name in dict.fromkeys(r["name"] for r in rows):
        bits: dict[str, set[str]] = {}
        for r in rows:
            if r["name"] == name and "row" in r:
                bits.setdefault(r["row"], set()).add(f"{r['program']} T={r['tokens']}")
        groups = ", ".join(str(len(g)) for g in bits.values())
        print(f"invariance of {name}: {len(bits)} different first rows, among programs x tokens: {groups}")
        for group in bits.values():
            print("    ", "; ".join(sorted(group))[:400])
        if name.startswith("invariant") and len(bits) > 1:
            print("FAILED", name, "has several first rows", flush=True)
            broken += 1
    return broken


def main() -> int:
    parser = arguments.parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sweep", action="store_true", help="time every candidate tile")
    parser.add_argument("--only", choices=["check", "bench"])
    parser.add_argument("--seconds", type=float, default=150, help="for timing")
    parser.add_argument("--small", action="store_true", help="check few programs")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.cuda.init()
    torch.zeros(1, device="cuda")
    print(torch.cuda.get_device_name(), "torch", torch.__version__, flush=True)
    bench, failed = Bench(given.folder), 0
    if given.only != "bench":
        begin = time.monotonic()
        rows = check(bench, given.small)
        failed = sum(bool(r["failures"]) for r in rows)
        print(f"{len(rows)} checks, {failed} failed, {time.monotonic() - begin:.0f} s", flush=True)
        failed += show_invariance(rows)
        (given.out / "check.json").write_text(json.dumps(rows))
    if given.only != "check":
        begin = time.monotonic()
        rows = benchmark(bench, "bench", given.seconds)
        show(rows)
        print(f"{time.monotonic() - begin:.0f} s", flush=True)
        (given.out / "bench.json").write_text(json.dumps(rows))
    if given.sweep:
        bench.compile_jobs()
        begin = time.monotonic()
        rows = benchmark(bench, "sweep", given.seconds)
        (given.out / "sweep.json").write_text(json.dumps(rows))
        show(best(rows))
        print(f"{len(rows)} timings, {time.monotonic() - begin:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
