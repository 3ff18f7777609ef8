"""Kernels of core-op groups against the interpreter: every op alone, and chains of ops inlined into one root."""

from __future__ import annotations

from pathlib import Path

import mlir.ir as mlir

from tests.unit.codegen.cpu_harness import on_every_isa
from tests.unit.codegen.loops_groups import Case, GroupBuilder, compile_all, finish
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.loop_program import CORE_FAMILIES, ROOTS, family
from warploom.ir.op import OPS

CORE_OPS = sorted(name for name in OPS if family(name) in CORE_FAMILIES)
INLINED = sorted(set(CORE_OPS) - ROOTS)
MOVES = ["broadcast", "concat", "gather", "pad", "reshape", "slice", "transpose"]
SEEDS, CHAINS = 4, 100


def group_of_one(module: mlir.Module, op: str, seed: int) -> Case:
    builder = GroupBuilder(module, f"{op}_{seed}", seed)
    with builder.point:
        results = builder.build(op)
    return finish(builder, results)


def chain(module: mlir.Module, seed: int) -> Case:
    builder = GroupBuilder(module, f"chain_{seed}", seed)
    with builder.point:
        for _ in range(builder.integer(1, 8)):
            builder.keep(*builder.build(builder.choice(builder.choice([INLINED, MOVES]))))
        results = builder.build(builder.choice(CORE_OPS))
    return finish(builder, results)


@on_every_isa
def test_every_core_op_alone(wl: mlir.Context, isa: Isa, tmp_path: Path) -> None:
    module = mlir.Module.create()
    cases = [group_of_one(module, op, seed) for op in CORE_OPS for seed in range(SEEDS)]
    kernels = compile_all(cases, isa, tmp_path)
    decided = [c for c in cases if c.check(kernels[c.name])]
    assert {c.function.ops[-1].name.removeprefix("wl.") for c in decided} == set(CORE_OPS)


@on_every_isa
def test_chains_inlined_into_one_root(wl: mlir.Context, isa: Isa, tmp_path: Path) -> None:
    module = mlir.Module.create()
    cases = [chain(module, seed) for seed in range(CHAINS)]
    kernels = compile_all(cases, isa, tmp_path)
    decided = [c.check(kernels[c.name]) for c in cases]
    assert sum(decided) > 0.8 * len(cases)
