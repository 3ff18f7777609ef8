"""On a GPU: compute-sanitizer's memcheck and racecheck over one small case of every kernel. Neither may find anything.

    python -m tests.gpu.sanitize OUT [--kernels FOLDER] [--linear FOLDER] [--latent FOLDER] [--artifacts FOLDER...]

takes what `build_kernels.py`, `build_linear.py` and `build_latent.py` made, and artifacts of tiny models
(`build_families.py`), of which it runs a few steps. Only our kernels are instrumented, torch's are not. All runs go on
at once, each with its log in OUT. Exit status 1 if one found something, failed or did not finish.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.gpu import arguments

SANITIZER = "/usr/local/cuda/bin/compute-sanitizer"
TOOLS = ("memcheck", "racecheck")
FAMILIES = ("decode", "ragged", "hopper", "rope,embed,norm", "sample,top_logprobs", "loops")
CLEAN = re.compile(r"(ERROR SUMMARY: 0 errors|RACECHECK SUMMARY: 0 hazards displayed)")


class Run(NamedTuple):
    """One script under one tool."""

    tool: str
    name: str
    script: Sequence[str]
    kernels: frozenset[str] = frozenset()  # beginnings of the names of what is instrumented; none: everything


def runs(
    kernels: Path | None, linear: Path | None, latent: Path | None, artifacts: Sequence[Path], out: Path
) -> Iterator[Run]:
    """All that is to be done."""
    small = ["--only", "check", "--small"]
    for tool in TOOLS:
        if kernels is not None:
            for family in FAMILIES:
                script = ["tests.gpu.run_kernels", str(kernels), "--families", family, *small]
                yield Run(tool, family, script, beginnings(kernels))
        if linear is not None:
            script = ["tests.gpu.run_linear", str(linear), str(out / f"linear-{tool}"), *small]
            yield Run(tool, "linear", script, beginnings(linear))
        if latent is not None:
            yield Run(tool, "latent", ["tests.gpu.run_latent", str(latent), "--small"], beginnings(latent))
        for artifact in artifacts:
            yield Run(tool, artifact.parent.name, ["tests.gpu.run_small", str(artifact)])


def beginnings(folder: Path) -> frozenset[str]:
    """First words of the kernels' names."""
    return frozenset(f"{file.stem.split('_')[0]}_" for file in folder.glob("*.cubin"))


def execute(run: Run, out: Path, seconds: float) -> str | None:
    """Run; returns what is wrong, if anything is."""
    log = out / f"{run.tool}-{run.name}.txt"
    chosen = [part for name in sorted(run.kernels) for part in ("--kernel-name", f"kns={name}")]
    options = ["--tool", run.tool, "--report-api-errors", "no", "--print-limit", "1000", *chosen]
    command = [SANITIZER, *options, sys.executable, "-m", *run.script]
    # Memory of its own for every tensor, so that the tool knows where it ends.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    begin = time.monotonic()
    with log.open("w") as file:
        try:
            status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"did not finish in {seconds:.0f} s"
    found = [line.removeprefix("========= ") for line in log.read_text().splitlines() if "SUMMARY" in line]
    print(f"{run.tool} {run.name}: {' '.join(found)}, {time.monotonic() - begin:.0f} s", flush=True)
    if status.returncode or not found or not all(map(CLEAN.search, found)):
        return f"exit status {status.returncode}, {found or 'no summary'}; see {log}"
    return None


def main() -> int:
    """Run all at once."""
    parser = arguments.parser(__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--kernels", type=Path)
    parser.add_argument("--linear", type=Path)
    parser.add_argument("--latent", type=Path)
    parser.add_argument("--artifacts", type=Path, nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=120, help="for each run")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    todo = list(runs(given.kernels, given.linear, given.latent, given.artifacts, given.out))
    with ThreadPoolExecutor(len(todo)) as workers:
        problems = list(workers.map(lambda run: execute(run, given.out, given.seconds), todo))
    for run, problem in zip(todo, problems, strict=True):
        if problem is not None:
            print(f"FAILED {run.tool} {run.name}: {problem}")
    return int(any(problems))


if __name__ == "__main__":
    raise SystemExit(main())
