"""Check and time the kernels that `build_kernels.py` compiled. Runs on the GPU machine.

    python -m tests.gpu.run_kernels FOLDER [--out JSON] [--only check|bench] [--families decode,ragged,...] [--small]

needs cuda-bindings; torch allocates, draws random numbers and is the oracle (f32 without TF32). Timed: graphs of many
launches with programmatic dependent launch, as they follow each other in a step, over caches and logits that rotate
through more than L2, medians. A case that fails is reported and the rest goes on. Exit status 1 if a check failed.
--small checks each kernel on one small case: for compute-sanitizer (see sanitize.py).
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from tests.gpu import arguments
from tests.gpu.attention_checks import bench_decode, bench_ragged, check_attention
from tests.gpu.kernel_bench import Bench, Case
from tests.gpu.loop_checks import check_loops
from tests.gpu.row_checks import bench_embed, bench_norm, bench_rope, check_embed, check_norm, check_rope
from tests.gpu.sampling_checks import bench_sample, bench_top_logprobs, check_sample, check_top_logprobs

BANDWIDTH = 3.0  # TB/s of a copy on an H100
PEAK = 798.0  # TFLOP/s, cuBLAS bf16 8192^3 on random data

CHECKS: dict[str, Callable[[Bench, Case], Iterator[tuple[str, list[str]]]]] = {
    "decode": check_attention,
    "ragged": check_attention,
    "hopper": check_attention,
    "rope": check_rope,
    "embed": check_embed,
    "norm": check_norm,
    "sample": check_sample,
    "top_logprobs": check_top_logprobs,
    "loops": check_loops,
}
TIMES: dict[str, Callable[[Bench, Case], Iterator[Case]]] = {
    "rope": bench_rope,
    "embed": bench_embed,
    "norm": bench_norm,
    "sample": bench_sample,
    "top_logprobs": bench_top_logprobs,
    "ragged": bench_ragged,
    "hopper": bench_ragged,
    "decode": bench_decode,
}


def check(bench: Bench, families: Sequence[str]) -> list[Case]:
    """All checks; prints the failures and one line per family."""
    rows: list[Case] = []
    for family in families:
        begin = time.monotonic()
        for case in (c for c in bench.cases if c["family"] == family and (c["use"] == "check" or family in SIMPLE)):
            try:
                for label, problems in CHECKS[family](bench, case):
                    rows.append({"family": family, "kernels": case["kernels"], "label": label, "problems": problems})
            except Exception as error:
                traceback.print_exc()
                rows.append({"family": family, "kernels": case["kernels"], "label": "?", "problems": [repr(error)]})
                if "ILLEGAL" in repr(error) or "LAUNCH_FAILED" in repr(error):
                    return rows
        mine = [row for row in rows if row["family"] == family]
        failed = [row for row in mine if row["problems"]]
        for row in failed:
            print("FAILED", row["kernels"], row["label"], row["problems"][:6], flush=True)
        print(f"{family}: {len(mine) - len(failed)} of {len(mine)} right, {time.monotonic() - begin:.1f} s", flush=True)
    return rows


SIMPLE = ("rope", "embed", "norm")


def benchmark(bench: Bench, families: Sequence[str], seconds: float) -> list[Case]:
    """Time what there is to time."""
    rows: list[Case] = []
    deadline = time.monotonic() + seconds
    for case in sorted((c for c in bench.cases if c["use"] == "bench"), key=lambda c: list(TIMES).index(c["family"])):
        if case["family"] not in families:
            continue
        if time.monotonic() > deadline:
            print("out of time", case["kernels"], flush=True)
            continue
        try:
            for row in TIMES[case["family"]](bench, case):
                rows.append({"family": case["family"], "kernel": case["kernels"][0], **row})
        except Exception as error:
            print("FAILED", case["kernels"], repr(error), flush=True)
        torch.cuda.empty_cache()
    return rows


def show(rows: list[Case]) -> None:
    """The fastest three kernels for each thing that was timed."""
    for family in dict.fromkeys(row["family"] for row in rows):
        mine = [row for row in rows if row["family"] == family]
        for label in dict.fromkeys(row["label"] for row in mine):
            for row in sorted((row for row in mine if row["label"] == label), key=lambda row: row["us"])[:3]:
                speed = f"{row['bytes'] / row['us'] / 1e6:5.2f} TB/s of {BANDWIDTH}" if "bytes" in row else ""
                speed += f"{row['flops'] / row['us'] / 1e6:6.1f} TFLOP/s of {PEAK}" if "flops" in row else ""
                print(f"{family:12} {label:32} {row['us']:9.2f} us  {speed}  {row['kernel']}")


def main() -> None:
    """Run."""
    parser = arguments.parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=["check", "bench"])
    parser.add_argument("--families", default=",".join(CHECKS))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seconds", type=float, default=100, help="for timings")
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    bench = Bench(given.folder, given.small)
    families = given.families.split(",")
    checks = check(bench, families) if given.only != "bench" else []
    times = benchmark(bench, families, given.seconds) if given.only != "check" else []
    show(times)
    if given.out:
        given.out.write_text(json.dumps({"device": torch.cuda.get_device_name(), "checks": checks, "times": times}))
    failed = [row for row in checks if row["problems"]]
    print(f"{len(checks) - len(failed)} of {len(checks)} checks passed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
