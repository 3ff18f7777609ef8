"""Kernels of core-op groups against the interpreter: every op alone, chains of ops, and what a kernel must keep."""

from __future__ import annotations

from pathlib import Path

import mlir.ir as mlir

from tests.unit.codegen.cpu_harness import on_every_isa
from tests.unit.codegen.loops_groups import GroupBuilder, case, compile_all
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.loops.program import CORE_FAMILIES, family
from warploom.ir.op import OPS

CORE_OPS = sorted(name for name in OPS if family(name) in CORE_FAMILIES)
SEEDS = 5


def group_of_one(module: mlir.Module, op: str, seed: int):
    builder = GroupBuilder(module, f"{op}_{seed}", seed)
    with builder.builder.point:
        operands, attributes = OPS[op].generate(builder)
        made = OPS[op](*operands, **attributes)
    return case(module, builder, f"{op}_{seed}", made if isinstance(made, tuple) else [made])


@on_every_isa
def test_every_core_op_alone(wl: mlir.Context, isa: Isa, tmp_path: Path) -> None:
    module = mlir.Module.create()
    cases = [group_of_one(module, op, seed) for op in CORE_OPS for seed in range(SEEDS)]
    kernels = compile_all(cases, isa, tmp_path)
    decided = [c for c in cases if c.check(module, kernels[c.name])]
    assert {c.match.spec.program.root.op for c in decided} == set(CORE_OPS)
