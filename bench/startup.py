"""From the start of a process to the first token of an answer, and what that process imported.

    python bench/startup.py ARTIFACT [--rounds 5]

Times are from before the interpreter starts. The files of the artifact are in the page cache after the first round.
Exit code 1 if the median exceeds the limit, or if serving imported a package of the compiler.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

import machine

SECONDS = 1.5
FORBIDDEN = {"mlir", "triton", "torch", "transformers", "ml_dtypes", "safetensors", "gguf"}
CHILD = """
import json, sys, time
from warploom import LLM, SamplingParams
imported = time.monotonic()
with LLM(sys.argv[1]) as llm:
    loaded = time.monotonic()
    stream = llm.stream("The capital of France is", SamplingParams(temperature=0, max_tokens=2))
    next(stream)
    first_token = time.monotonic()
packages = sorted({name.split(".")[0] for name in sys.modules})
print(json.dumps({"imported": imported, "loaded": loaded, "first token": first_token, "packages": packages}))
"""


def measure(artifact: str) -> tuple[dict[str, float], set[str]]:
    """Serve one token in a new process; return seconds since its start by what was reached, and its imports."""
    started = time.monotonic()
    command = [sys.executable, "-c", CHILD, artifact]
    report = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    packages = set(report.pop("packages"))
    return {name: reached - started for name, reached in report.items()}, packages


def main() -> int:
    """Measure some rounds and compare with the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(machine.describe())
    rounds = [measure(args.artifact) for _ in range(args.rounds)]
    for name in rounds[0][0]:
        times = [times[name] for times, _ in rounds]
        print(f"process start to {name:<12} median {statistics.median(times):.3f} s, best {min(times):.3f} s")
    median = statistics.median(times["first token"] for times, _ in rounds)
    imported = FORBIDDEN & rounds[0][1]
    print(f"limit {SECONDS} s; packages of the compiler imported: {', '.join(sorted(imported)) or 'none'}")
    return int(median > SECONDS or bool(imported))


if __name__ == "__main__":
    sys.exit(main())
