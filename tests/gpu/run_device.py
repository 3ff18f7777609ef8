"""Check the CUDA device on a GPU with an artifact, and time its loading.

    python -m tests.gpu.run_device ARTIFACT --out FILE.json [--tokens N]

Checks: every way of running a request gives the same tokens (graphs, direct launches, a second run, steps launched
ahead with their tokens on the GPU); logits of padded decode steps equal those of direct launches; serving imports no
compiler; a row's logits move by no more than rounding with its neighbours. Exit status 1 if a check failed.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from tests.gpu import arguments  # noqa: E402
from tests.gpu.single_rows import neighbours  # noqa: E402
from warploom.runtime.artifact import Artifact, load  # noqa: E402
from warploom.runtime.cuda.device import CudaDevice  # noqa: E402
from warploom.runtime.cuda.profile import fill_cache  # noqa: E402
from warploom.runtime.engine import Engine  # noqa: E402
from warploom.runtime.sampling_params import SamplingParams  # noqa: E402
from warploom.runtime.step_batch import StepBatch  # noqa: E402
from warploom.tools.synthetic import plain_sampling, ragged_batch  # noqa: E402

Requests = Sequence[tuple[list[int], SamplingParams]]
ROUNDING = 0.25  # of bf16 activations, in units of the spread of logits
BANNED = ("torch", "triton", "mlir", "transformers", "jax", "cupy")


def open_device(artifact: Artifact, **options: Any) -> CudaDevice:
    compiled = artifact.plan(next(iter(artifact.manifest.targets))).entries["step"].dims["T"].max
    return CudaDevice(artifact, max_tokens=min(512, compiled), max_seqs=8, **options)


def requests_of(artifact: Artifact, num_tokens: int) -> Requests:
    """Prompts of several lengths, greedy and sampled, with and without penalties, biases and reports."""
    rng = np.random.default_rng(3)
    vocab, room = artifact.manifest.vocab_size, artifact.manifest.max_context
    options: list[dict[str, Any]] = [{}, {"temperature": 0.0}, {"repetition_penalty": 1.3}, {"logprobs": 2}]
    requests = []
    for i in range(12):
        length = min([1, 5, 17, 64, 70, 129, 300, 3, 2, 600, 33, 8][i], room // 2)
        params = SamplingParams(
            seed=i, max_tokens=min(num_tokens, room - length), min_tokens=2, ignore_eos=True, **options[i % 4]
        )
        requests.append((rng.integers(3, vocab, length).tolist(), params))
    return requests


def generate(artifact: Artifact, device: CudaDevice, requests: Requests) -> list[list[int]]:
    """The tokens of all requests, batched by an engine."""
    manifest = artifact.manifest
    ends = manifest.tokenizer.eos_token_ids
    engine = Engine(device, vocab_size=manifest.vocab_size, max_context=manifest.max_context, eos_token_ids=ends)
    tokens: dict[int, list[int]] = {engine.add_request(prompt, params): [] for prompt, params in requests}
    while engine.has_work:
        for output in engine.step():
            assert output.finish_reason != "abort", output.stop_reason
            tokens[output.request_id] += output.token_ids
    return list(tokens.values())


def decode_chain(artifact: Artifact, device: CudaDevice, ahead: bool, rows: int = 5, steps: int = 20) -> list[Any]:
    """Tokens of decode steps of a few sequences whose order changes; `ahead`: launched before they are known."""
    size = device.page_size
    contexts = np.arange(2, 2 + rows, dtype=np.int32)
    most = int(contexts.max()) + steps
    batch = ragged_batch(device, artifact.manifest.vocab_size, contexts.tolist(), [most] * rows, temperature=1, seed=2)
    table = batch.page_table
    starts = np.array([0, *np.cumsum(contexts)], np.int32)
    positions = np.concatenate([np.arange(n, dtype=np.int32) for n in contexts])
    owners = np.repeat(np.arange(rows), contexts)
    slots = table[owners, positions // size] * size + positions % size
    sampling = plain_sampling(contexts, 1.0, 2)
    first = batch._replace(positions=positions, slots=slots, context_lens=contexts, sampling=sampling)
    first = first._replace(query_start=starts, logit_rows=starts[1:] - 1)
    ticket = device.launch(first)
    order = np.arange(rows)
    outputs: list[Any] = []
    for step in range(steps):
        following = np.roll(order, step % 3)
        sources = np.argsort(order)[following].astype(np.int32)
        lens = contexts[following] + step + 1
        tokens = np.zeros(rows, np.int32)
        if not ahead:
            outputs.append(device.result(ticket).tokens)
            tokens, sources = outputs[-1][sources], np.full(rows, -1, np.int32)
        decode = StepBatch(
            token_ids=tokens,
            positions=lens - 1,
            slots=table[following, (lens - 1) // size] * size + (lens - 1) % size,
            page_table=table[following],
            query_start=np.arange(rows + 1, dtype=np.int32),
            context_lens=lens,
            logit_rows=np.arange(rows, dtype=np.int32),
            sampling=plain_sampling(lens, 1.0, 2),
            top_logprobs=False,
        )
        launched = device.launch(decode, sources if ahead else None)
        if ahead:
            outputs.append(device.result(ticket).tokens)
        ticket, order = launched, following
    outputs.append(device.result(ticket).tokens)
    return [output.tolist() for output in outputs]


def step_logits(artifact: Artifact, device: CudaDevice) -> list[np.ndarray]:
    """Logits of decode steps that need padding."""
    fill_cache(device)
    vocab, context = artifact.manifest.vocab_size, min(40, artifact.manifest.max_context)
    batches = [
        ragged_batch(device, vocab, [1] * rows, [context] * rows, temperature=0, seed=rows) for rows in (1, 3, 5, 7)
    ]
    return [device.logits(batch) for batch in batches]


def main(check: Callable[[Artifact, CudaDevice], dict[str, bool]] | None = None) -> int:
    parser = arguments.parser(__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=32)
    args = parser.parse_args()
    artifact = load(args.artifact)
    times = {"import": time.perf_counter() - STARTED}
    begun = time.perf_counter()
    device = open_device(artifact)
    times |= {f"load: {stage}": seconds for stage, seconds in device.load_seconds.items()}
    times["load"] = time.perf_counter() - begun
    vocab = artifact.manifest.vocab_size
    begun = time.perf_counter()
    device.execute(ragged_batch(device, vocab, [5], [5], temperature=0, seed=0))
    times["first token"] = time.perf_counter() - begun
    times["start to first token"] = time.perf_counter() - STARTED
    free, total = device.driver.memory()
    taken = device.program.memory.taken
    print(json.dumps({"memory": taken | {"context, kernels, graphs": total - free - sum(taken.values())}}, indent=1))

    requests = requests_of(artifact, args.tokens)
    tokens = generate(artifact, device, requests)
    checks = {
        "a second run gives the same tokens": generate(artifact, device, requests) == tokens,
        "steps launched ahead give the same tokens": decode_chain(artifact, device, True)
        == decode_chain(artifact, device, False),
        "no compiler is imported": not any(name in sys.modules for name in BANNED),
    } | (check(artifact, device) if check else {})
    padded, moved = step_logits(artifact, device), neighbours(artifact, device)
    checks["a row among eight is the row alone but for rounding"] = moved.text < ROUNDING
    num_pages = device.num_pages
    device.close()

    direct = open_device(artifact, graphs=False, kv_bytes=num_pages * artifact.target(device.target).kv.bytes_per_page)
    logits = step_logits(artifact, direct)
    checks["direct launches give the same tokens"] = generate(artifact, direct, requests) == tokens
    checks["logits are numbers"] = all(bool(np.isfinite(values).all()) for values in logits)
    change = max(float(np.abs(a - b).max()) for a, b in zip(padded, logits, strict=True))
    direct.close()
    report = {
        "gpu": direct.gpu.name,
        "times": times,
        "checks": checks,
        "padded against direct, largest change of a logit": change,
        "eight rows against one, in units of the spread": moved._asdict(),
    }
    print(json.dumps(report, indent=1))
    args.out.write_text(json.dumps(report))
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
