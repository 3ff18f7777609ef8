"""Checks of groups of core ops. For `run_kernels.py`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from tests.gpu.kernel_bench import Bench, Case

# What tests/tolerances.py allows.
TOLERANCES = {"f32": (1e-5, 1e-5), "f16": (2e-3, 2e-3), "bf16": (1.6e-2, 1e-2)}


def check_loops(bench: Bench, case: Case) -> Iterator[tuple[str, list[str]]]:
    data = np.load(bench.folder / case["data"])
    kinds = case["kinds"]
    given = {n: torch.from_numpy(np.ascontiguousarray(data[n])).cuda() for n in kinds}
    given = {n: a.view(torch.bfloat16) if kinds[n] == "bf16" else a for n, a in given.items()}
    arrays = {n: torch.full_like(a, 1) if n.startswith("out") else a for n, a in given.items()}
    problems = bench.run(case["kernels"], arrays, case["dims"])
    for name, expected in given.items():
        if not name.startswith("out") or case["losses"][name] is None:
            continue
        got = arrays[name]
        if kinds[name] not in TOLERANCES:
            if not torch.equal(got, expected):
                problems.append(f"{name} is wrong")
            continue
        relative, absolute = TOLERANCES[kinds[name]]
        bound = absolute + 16 * case["losses"][name]
        if not torch.allclose(got.double(), expected.double(), rtol=relative, atol=bound, equal_nan=True):
            worst = (got.double() - expected.double()).abs().max()
            problems.append(f"{name} is off by {worst:.3g}, allowed {bound:.3g}")
    yield case["name"], problems
