"""What quantization costs: the surprise of SmolLM2-135M-Instruct at a text, scheme by scheme, against our own bf16.

    python bench/accuracy.py [--tokens 20000] [--schemes int8 fp8 ...] [--threads 2]

The text is what Python's standard library says of itself (`warploom/library_text.py`); activation-aware schemes and
FP8 caches are calibrated on other modules of it, and nothing else has seen any text. Each token is scored once, in
windows of 512 tokens. The
weights are those of the quickstart's GGUF (Q4_1: they lie on a grid of 16 numbers per 32). What it may cost is said in
`LIMITS`; exit status 1 if a scheme costs more, or if calibration does not help. About two minutes a scheme on two
idle cores; progress goes to stderr, the table to stdout, as Markdown.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import warploom
from warploom.frontend.quickstart_model import fetch_smollm2_gguf
from warploom.library_text import library_text
from warploom.tools.eval_nll import evaluate_nll
from warploom.tools.teacher_forcing import Teacher

CONTEXT = 512
BASE = "bf16"


class Row(NamedTuple):
    """A scheme: what `compile` is told, and how much more surprise (relative to bf16) is accepted, if that is fixed."""

    quantization: str
    kv_cache: str = "auto"
    limit: float | None = None


# Of this small model the head is a fifth of all weights; AWQ's own checkpoints leave it in f16.
ROWS = {
    "bf16": Row("bf16"),
    "int8": Row("int8", limit=0.003),
    "fp8": Row("fp8", limit=0.01),
    "fp8-kv": Row("bf16", "fp8", limit=0.005),
    "int8-kv": Row("bf16", "int8"),
    "int4": Row("lm_head=int8,*=int4"),
    "int4-awq": Row("lm_head=int8,*=int4:awq", limit=0.06),
}


def surprise(model: Path, row: Row, tokens: int, threads: int, progress: Callable[[str, float], None]) -> float:
    """Return the mean negative log-likelihood of the text's tokens."""
    with tempfile.TemporaryDirectory() as folder:
        artifact = warploom.compile(
            model,
            quantization=row.quantization,
            kv_cache=row.kv_cache,
            calibration=library_text("calibration") if "awq" in row.quantization else None,
            out=Path(folder) / "artifact",
            progress=progress,
        )
        with Teacher(artifact, device="cpu", threads=threads, max_context=CONTEXT) as teacher:
            text = library_text("evaluation")
            found = evaluate_nll(teacher, text, max_tokens=tokens, progress=lambda done: progress("reading", done))
            return found.mean_nll


def watch(name: str) -> Callable[[str, float], None]:
    """Return a progress that keeps one line of a terminal, or writes one line a stage and every tenth of reading."""
    last, end = "", "\r" if sys.stderr.isatty() else "\n"

    def progress(stage: str, fraction: float) -> None:
        nonlocal last
        line = f"{name}: {stage} {int(fraction * 10) * 10} %" if stage in ("reading", "calibrating") else name
        if line != last:
            print(f"{time.strftime('%H:%M:%S')} {line:<50}", end=end, file=sys.stderr, flush=True)
        last = line

    return progress


def show(name: str, row: Row, nll: float, base: float) -> bool:
    """Print a line of the table; return whether the limit is kept."""
    cost = nll / base - 1
    kept = row.limit is None or cost <= row.limit
    limit = "" if row.limit is None else f"{row.limit:+.1%} {'kept' if kept else 'BROKEN'}"
    told = f"`{row.quantization}`" + (f", {row.kv_cache} KV cache" if row.kv_cache != "auto" else "")
    print(f"| {name} | {told} | {nll:.5f} | {cost:+.2%} | {limit} |", flush=True)
    return kept


def measure(names: Sequence[str], tokens: int, threads: int) -> bool:
    """Measure rows, bf16 first; return whether all limits are kept."""
    model = fetch_smollm2_gguf(Path(".warploom/models"))
    print(
        f"| {tokens} tokens | quantization | nats a token | cost | limit |\n| --- | --- | --- | --- | --- |", flush=True
    )
    found: dict[str, float] = {}
    kept = True
    for name in dict.fromkeys([BASE, *names]):
        found[name] = surprise(model, ROWS[name], tokens, threads, watch(name))
        kept = show(name, ROWS[name], found[name], found[BASE]) and kept
    if {"int4", "int4-awq"} <= found.keys() and found["int4-awq"] >= found["int4"]:
        print("int4-awq is no better than int4")
        kept = False
    return kept


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--schemes", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    return 0 if measure(args.schemes, args.tokens, args.threads) else 1


if __name__ == "__main__":
    sys.exit(main())
