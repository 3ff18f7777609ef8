"""Routing within groups on CUDA: its source in Triton's interpreter against the numpy meaning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.unit.codegen.triton_interpreter import run_kernel
from warploom.codegen.cuda.kernels.route_in_groups import RouteInGroupsSpec
from warploom.ir.ops.group_routing import route_in_groups
from warploom.ir.types import DType

V2: dict[str, Any] = {"score": "softmax", "groups": 8, "kept": 3, "best": 1, "normalized": False, "scale": 16.0}
V3: dict[str, Any] = {"score": "sigmoid", "groups": 4, "kept": 2, "best": 2, "normalized": True, "scale": 2.5}
ONE: dict[str, Any] = {"score": "sigmoid", "groups": 1, "kept": 1, "best": 2, "normalized": True, "scale": 1.0}


@pytest.mark.parametrize(
    ("experts", "k", "attrs", "bias"),
    [
        (160, 6, V2, False),
        (12, 3, V3, True),
        (256, 8, V3, True),
        (21, 5, ONE, True),
        (30, 4, V3 | {"groups": 5}, False),
    ],
)
def test_routing_is_its_meaning(experts: int, k: int, attrs: dict[str, Any], bias: bool) -> None:
    rng, tokens = np.random.default_rng(experts), 9
    logits = rng.standard_normal((tokens, experts)).astype(np.float32)
    logits[1], logits[2] = 0.0, -30.0  # ties, of which the lowest index comes first; small scores
    biases = [rng.standard_normal(experts).astype(np.float32)] if bias else []
    shares, chosen = np.full((tokens, k), np.nan, np.float32), np.full((tokens, k), -1, np.int32)
    spec = RouteInGroupsSpec(experts, k, **attrs, bias=bias, logits=DType.F32, pdl=False)
    run_kernel(spec, [logits, *biases, shares, chosen], {"T": tokens})
    expected, indices = route_in_groups.evaluate(logits.astype(np.float64), *biases, k=k, **attrs)
    np.testing.assert_array_equal(chosen, indices)
    np.testing.assert_allclose(shares, expected, rtol=1e-5)
