"""Checks and timings of sampling and of the most likely tokens. For `run_kernels.py`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from tests.gpu.kernel_bench import ROTATED, Arrays, Bench, Case
from tests.gpu.kernel_data import sample_inputs

SMALL_VOCAB = 50000


def sample_arrays(inputs: dict[str, np.ndarray]) -> Arrays:
    rows = len(inputs["logits"])
    results = {
        "tokens": torch.full((rows,), -9, dtype=torch.int32, device="cuda"),
        "logprobs": torch.full((rows,), float("nan"), device="cuda"),
    }
    return {name: torch.from_numpy(np.ascontiguousarray(a)).cuda() for name, a in inputs.items()} | results


def sample_dims(arrays: Arrays) -> dict[str, int]:
    widths = {"H": "penalty_tokens", "B": "bias_tokens", "M": "banned_bits"}
    return {"R": len(arrays["logits"])} | {dim: arrays[name].shape[1] for dim, name in widths.items()}


def check_sample(bench: Bench, case: Case) -> Iterator[tuple[str, list[str]]]:
    if bench.small and case["vocab"] > SMALL_VOCAB:
        return
    inputs, expected = sample_inputs(7, case["rows"], case["vocab"]), case["expected"]
    arrays = sample_arrays(inputs)
    problems = bench.run(case["kernels"], arrays, sample_dims(arrays))
    tokens, logprobs = arrays["tokens"].cpu().numpy(), arrays["logprobs"].cpu().numpy()
    wrong = (tokens != expected["tokens"]) & ~np.array(expected["ties"])
    for row in np.flatnonzero(wrong):
        settings = {n: np.round(inputs[n][row], 4).tolist() for n in ("temperature", "top_k", "top_p", "min_p")}
        problems.append(f"row {row}: token {tokens[row]}, not {expected['tokens'][row]} {settings}")
    if not np.allclose(logprobs[~wrong], np.array(expected["logprobs"])[~wrong], rtol=1e-5, atol=1e-4):
        problems.append("log-probabilities are wrong")
    yield f"V={case['vocab']} rows={case['rows']} ties={sum(expected['ties'])}", problems
    few = {name: a[3:5].copy() for name, a in inputs.items()}
    alone = sample_arrays(few)
    problems = bench.run(case["kernels"], alone, sample_dims(alone))
    if alone["tokens"].tolist() != tokens[3:5].tolist() or alone["logprobs"].tolist() != logprobs[3:5].tolist():
        problems.append("a row depends on its batch")
    yield "alone", problems
    if case["vocab"] > 100000:  # far more blocks than are resident, of which many wait for others
        crowd = sample_arrays({name: np.tile(a, (20, *[1] * (a.ndim - 1))) for name, a in inputs.items()})
        problems = bench.run(case["kernels"], crowd, sample_dims(crowd))
        if not torch.equal(crowd["tokens"], arrays["tokens"].repeat(20)):
            problems.append("rows depend on the crowd")
        yield "crowd", problems


def check_top_logprobs(bench: Bench, case: Case) -> Iterator[tuple[str, list[str]]]:
    if bench.small and case["vocab"] > SMALL_VOCAB:
        return
    logits = torch.from_numpy(sample_inputs(7, case["rows"], case["vocab"])["logits"]).cuda()
    logits[1] = logits[1].round()
    arrays = top_arrays(logits)
    problems = bench.run(case["kernels"], arrays, {"R": len(logits)})
    order = torch.sort(-logits.double(), dim=-1, stable=True).indices[:, :20]
    expected = logits.double().log_softmax(-1).gather(1, order)
    if not torch.equal(arrays["top_tokens"].long(), order):
        problems.append("tokens are wrong")
    if not torch.allclose(arrays["top_logprobs"].double(), expected, rtol=1e-5, atol=1e-4):
        problems.append("log-probabilities are wrong")
    yield f"V={case['vocab']}", problems


def top_arrays(logits: torch.Tensor) -> Arrays:
    rows = len(logits)
    tokens = torch.full((rows, 20), -9, dtype=torch.int32, device="cuda")
    return {"logits": logits, "top_tokens": tokens, "top_logprobs": torch.zeros(rows, 20, device="cuda")}


MODES: dict[str, dict[str, float]] = {
    "greedy": {},
    "temperature": {"temperature": 0.8},
    "top_p": {"temperature": 0.8, "top_p": 0.9},
    "top_k": {"temperature": 0.8, "top_k": 50},
    "top_k+top_p+min_p": {"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.05},
    "penalties": {"repetition_penalty": 1.1, "presence_penalty": 0.5},
}


def bench_sample(bench: Bench, case: Case) -> Iterator[Case]:
    (name,) = case["kernels"]
    for rows in (1, 8, 32, 128):
        plain = sample_arrays(sample_inputs(3, rows, 1000, plain=True))
        copies = [
            torch.randn(rows, case["vocab"], device="cuda") * 2
            for _ in range(max(2, min(40, ROTATED // (4 * rows * case["vocab"]) + 1)))
        ]
        history = torch.randint(0, 1000, (rows, 300), device="cuda", dtype=torch.int32)
        for mode, changes in MODES.items():
            arrays = {n: torch.full_like(a, changes[n]) if n in changes else a for n, a in plain.items()}
            if mode == "penalties":
                arrays["penalty_tokens"] = history
            dims = sample_dims(arrays)
            temps = bench.temps(name, dims)
            us = bench.time([bench.bind(name, arrays | temps | {"logits": x}, dims) for x in copies])
            yield {"label": f"{mode} batch {rows}", "us": us, "bytes": copies[0].nbytes}


def bench_top_logprobs(bench: Bench, case: Case) -> Iterator[Case]:
    (name,) = case["kernels"]
    for rows in (1, 32, 128):
        arrays = top_arrays(torch.randn(rows, case["vocab"], device="cuda"))
        temps = bench.temps(name, {"R": rows})
        us = bench.time([bench.bind(name, arrays | temps, {"R": rows})] * 20)
        yield {"label": f"batch {rows}", "us": us, "bytes": arrays["logits"].nbytes}
