"""No quantization, on no target, leaves work on weights to a step: what is packed is packed at compile time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import mlir.ir as mlir
import pytest

from tests.unit.passes.tiny_llama import CONFIG, LIMITS, random_tensors
from warploom.codegen.backend import Backend, backend_of
from warploom.frontend.models.inputs import CacheSpec
from warploom.frontend.tensors import require
from warploom.frontend.trace import trace
from warploom.ir.ops.parameters import param
from warploom.ir.rewrite import entries, is_op
from warploom.ir.types import DType
from warploom.passes.assign_layouts import assign_layouts
from warploom.passes.merge_linears import merge_linears
from warploom.passes.pipeline import pipeline, run
from warploom.passes.quantization.scheme import families

# Dimensions that every scheme can take: groups of 128 columns.
WIDE = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 8}


def cases() -> Iterator[tuple[str, str]]:
    """Every target with every scheme that it has kernels for and that makes its own numbers."""
    for target, scheme in product(("cpu", "cuda:sm_90"), families()):
        if scheme in backend_of(target).quantizations and scheme != "checkpoint":
            yield target, scheme


def repacks(module: mlir.Module) -> list[str]:
    """The ops and calls of all entries that read weights and nothing else: what they make is another form of them.

    What a group does to a weight on its way into a product or a lookup stays in registers.
    """
    found = []
    for entry in entries(module):
        known: set[mlir.Value] = set()
        for operation in entry.ops:
            if is_op(operation, param):
                known.add(operation.results[0])
            elif operation.operands and all(operand in known for operand in operation.operands):
                known.update(operation.results)
                found.append(operation.name.removeprefix("wl."))
    return found


def traced(backend: Backend) -> mlir.Module:
    config = {**CONFIG, **WIDE}
    cache = CacheSpec(backend.page_size, DType.BF16, backend.k_layout)
    return trace(config, partial(require, random_tensors(config)), cache, LIMITS, backend.activation)


def lowered(backend: Backend, scheme: str) -> mlir.Module:
    module = traced(backend)
    for _ in run(module, pipeline(backend.target, scheme)):
        pass
    return module


@pytest.mark.usefixtures("wl")
@pytest.mark.parametrize(("target", "scheme"), list(cases()))
def test_a_step_repacks_no_weight(target: str, scheme: str) -> None:
    assert repacks(lowered(backend_of(target), scheme)) == []


@pytest.mark.usefixtures("wl")
def test_a_repack_would_be_counted() -> None:
    module = traced(backend_of("cpu"))
    target = backend_of("cpu").target
    merge_linears(module)
    assign_layouts(module, target)
    assert {"pack", "concat"} <= set(repacks(module))
