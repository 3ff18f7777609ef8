"""Decode and prefill of SmolLM2-135M on this CPU, ours beside llama.cpp's, in one run.

    python bench/cpu_decode.py --llama-python OTHER_VENV/bin/python [--threads 1 2] [--rounds 7]

`--llama-python`: an interpreter that has llama-cpp-python; default: this one. Where its AMX path crashes (virtual
machines without AMX state), build it without, so that its repacked weights work and the comparison is fair:

    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=ON
    -DGGML_AVX512_VBMI=ON -DGGML_AVX512_VNNI=ON -DGGML_AVX512_BF16=ON" pip install --no-binary :all: llama-cpp-python

Both engines stay loaded in processes of their own and take turns in short rounds, so that a slow moment of the machine
hits both; a neighbour still distorts two threads (both engines spin between kernels), so run it alone. The weights are
the same, from the quickstart's GGUF: bf16 beside F16, int8 beside Q8_0, int4 (groups of 32) beside Q4_0. The models are
made on the first run, in .warploom/bench.

decode: one sequence, from 96 to 160 tokens of context. prefill: a prompt of 512 tokens. Both take logits of one row;
neither samples; `decode through LLM.generate` does: it is greedy, with all of our scheduling and detokenizing.
limit: the rate at which as many threads can read as many bytes as the weights have, all of which a token needs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import machine
import read_bandwidth
import same_weights

HERE = Path(__file__).parent
PAIRS = {"bf16": "f16", "int8": "q8_0", "int4": "q4_0"}  # our quantization: llama.cpp's


class Worker:
    """An engine in a process of its own, which answers each round with {measurement: tokens per second}."""

    def __init__(self, python: str, script: str, model: Path, threads: int, **environment: str) -> None:
        self._script = script
        self._process = subprocess.Popen(
            [python, HERE / script, model, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def round(self) -> dict[str, float]:
        """Run one round; ChildProcessError if the engine has ended."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise ChildProcessError(f"{self._script} ended with exit status {self._process.wait()}")
        rates: dict[str, float] = json.loads(line)
        return rates

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def open_llama(python: str, model: Path, threads: int) -> Worker:
    """Start llama.cpp and warm it up, without its repacked weights where those crash it."""
    worker = Worker(python, "worker_llama.py", model, threads)
    try:
        worker.round()
    except ChildProcessError as error:
        print(f"{error}; trying llama.cpp without its repacking of weights (AMX)")
        worker = Worker(python, "worker_llama.py", model, threads, WARPLOOM_BENCH_PLAIN="1")
        worker.round()
    return worker


def compare(ours: Path, theirs: Path, llama_python: str, threads: int, rounds: int) -> dict[str, list[float]]:
    """Let both engines take turns; return all rates by `measurement, engine`."""
    workers = {
        "ours": Worker(sys.executable, "worker_warploom.py", ours, threads),
        "llama.cpp": open_llama(llama_python, theirs, threads),
    }
    workers["ours"].round()  # warms up
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        for engine, worker in workers.items():
            for measurement, rate in worker.round().items():
                rates.setdefault(f"{measurement}, {engine}", []).append(rate)
    for worker in workers.values():
        worker.close()
    return rates


def show(label: str, rates: dict[str, list[float]], limit: float) -> None:
    """Print medians and best, and how we compare."""
    print(f"\n{label}: tokens/s{'median':>24}{'best':>10}")
    for name, values in sorted(rates.items()):
        print(f"  {name:<30}{statistics.median(values):10.1f}{max(values):10.1f}")
    for measurement in ("decode", "prefill"):
        ours, theirs = (rates[f"{measurement}, {engine}"] for engine in ("ours", "llama.cpp"))
        print(f"  {measurement}: {statistics.median(ours) / statistics.median(theirs):.2f}x llama.cpp by medians, "
              f"{max(ours) / max(theirs):.2f}x by best")  # fmt: skip
    print(f"  limit of decode by read bandwidth: {limit:.1f}; ours reaches {max(rates['decode, ours']) / limit:.0%}")


def main() -> None:
    """Compare every pair of formats at every number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-python", default=sys.executable)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quantization", nargs="+", choices=PAIRS, default=list(PAIRS))
    args = parser.parse_args()
    for quantization in args.quantization:
        theirs = same_weights.gguf(PAIRS[quantization])
        ours = same_weights.artifact(quantization)
        token_bytes = same_weights.bytes_per_token(ours)
        for threads in args.threads:
            bandwidth = read_bandwidth.measure(threads, token_bytes)
            print(f"\n{machine.describe()}; reads {bandwidth / 1e9:.1f} GB/s with {threads} threads")
            rates = compare(ours, theirs, args.llama_python, threads, args.rounds)
            label = f"{quantization} / {PAIRS[quantization].upper()}, {threads} threads"
            show(label, rates, bandwidth / token_bytes)


if __name__ == "__main__":
    main()
