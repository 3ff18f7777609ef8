"""What quantization costs: the surprise of SmolLM2-135M-Instruct at a text, scheme by scheme, against our own bf16.

    python bench/accuracy.py [--tokens 20000] [--schemes int8 int4 ...] [--threads 2]

The text is what Python's standard library says of itself (`library_text.py`); activation-aware schemes are calibrated
on other modules of it. Each token is scored once, in windows of 512 tokens. The weights are those of the quickstart's
GGUF (Q4_1: they lie on a grid of 16 numbers per 32, which `int4:zeros` therefore nearly keeps). Exit status 1 if a
scheme costs more than its limit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from library_text import library_text

import warploom
from warploom.frontend.quickstart_model import fetch_smollm2_gguf
from warploom.tools.eval_nll import evaluate_nll
from warploom.tools.teacher_forcing import Teacher

CONTEXT = 512
FP8_CACHE = "bf16 + FP8 cache"
# The head is a fifth of this small model's weights; AWQ's own checkpoints leave it in f16.
ROUNDED, AWARE = "lm_head=int8,*=int4", "lm_head=int8,*=int4:awq"
LIMITS = {
    "int8": 0.003,
    "fp8": 0.01,
    FP8_CACHE: 0.005,
    ROUNDED: None,
    AWARE: 0.06,
    "int4": None,
    "int4:awq": None,
    "int4:zeros": None,
}


def surprise(model: Path, scheme: str, tokens: int, threads: int) -> float:
    """Return the mean negative log-likelihood of the text's tokens."""
    quantization, _, cache = scheme.partition(" + ")
    with tempfile.TemporaryDirectory() as folder:
        artifact = warploom.compile(
            model,
            quantization=quantization,
            kv_cache="fp8" if cache else "auto",
            calibration=library_text("calibration"),
            out=Path(folder) / "artifact",
        )
        with Teacher(artifact, device="cpu", threads=threads, max_context=CONTEXT) as teacher:
            return evaluate_nll(teacher, library_text("evaluation"), max_tokens=tokens).mean_nll


def main() -> int:
    """Measure every scheme and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--schemes", nargs="+", default=list(LIMITS))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    model = fetch_smollm2_gguf(Path(".warploom/models"))
    base = surprise(model, "bf16", args.tokens, args.threads)
    print(f"{'bf16':<20}{base:10.5f} nats a token, {args.tokens} tokens", flush=True)
    found = {}
    for scheme in args.schemes:
        found[scheme] = surprise(model, scheme, args.tokens, args.threads) / base - 1
        limit = LIMITS.get(scheme)
        note = "" if limit is None else f"  limit {limit:+.1%}: {'kept' if found[scheme] <= limit else 'BROKEN'}"
        print(f"{scheme:<20}{found[scheme]:+10.2%}{note}", flush=True)
    broken = [s for s, cost in found.items() if (limit := LIMITS.get(s)) is not None and cost > limit]
    if {ROUNDED, AWARE} <= found.keys() and found[AWARE] >= found[ROUNDED]:
        broken.append(f"{AWARE} is no better than {ROUNDED}")
    print("\n".join(broken))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
