"""From fused modules to native code that does what the interpreter does."""

from __future__ import annotations

from pathlib import Path

import mlir.ir as mlir
import numpy as np
import pytest

from tests.unit.codegen.fused_programs import (
    DIMS,
    FAMILIES,
    KEYS,
    KV,
    ROWS,
    SLOTS,
    call,
    make_group,
    make_sum,
    make_write,
)  # fmt: skip
from warploom.codegen.cpu.driver import CpuProduct, compile_entries
from warploom.codegen.cpu.executor import NativeModule
from warploom.codegen.cpu.isa import LEVELS, X86_64_V3, X86_64_V4
from warploom.codegen.cpu.templates import templates
from warploom.codegen.cuda.templates import templates as cuda_templates
from warploom.errors import CompileError
from warploom.ir.function import FunctionBuilder, scope
from warploom.ir.interpreter import evaluate
from warploom.ir.ops.elementwise import add
from warploom.ir.ops.parameters import param
from warploom.ir.types import tensor
from warploom.ir.verify import verify
from warploom.passes import fuse_heroes, fuse_loops

CPU_FLAGS = set(Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split())
RUNNABLE = [level for level in LEVELS if CPU_FLAGS.issuperset(level.features)]


def step_module() -> mlir.Module:
    """@step: rows summed four times, and a two-layer cache written in place."""
    module = mlir.Module.create()
    total, writes = make_sum(module), [make_write(module, layer) for layer in range(2)]
    builder = FunctionBuilder(module, "step", DIMS)
    x, y, k, slots = (builder.input(*i) for i in (("x", ROWS), ("y", ROWS), ("k", KEYS), ("slots", SLOTS)))
    kv = builder.input("kv", KV, donated=True)
    with builder.point:
        for layer, write in enumerate(writes):
            with scope(f"model.layers.{layer}"):
                x, y = call(total, x, y), x
                x = call(total, x, y)
                kv = call(write, kv, k, slots)
    builder.finish({"out": x, "kv": kv})
    verify(module)
    return module


def step_inputs(tokens: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(tokens)
    return {
        "x": rng.standard_normal((tokens, 16), np.float32),
        "y": rng.standard_normal((tokens, 16), np.float32),
        "k": rng.standard_normal((tokens, 1, 16), np.float32),
        "slots": np.array([3, -1, 4, 0, 5][:tokens], np.int32),
        "kv": rng.standard_normal((2, 3, 2, 1, 32), np.float32),
    }


def built(module: mlir.Module, folder: Path, *isas: object) -> CpuProduct:
    folder.mkdir(exist_ok=True)
    return compile_entries(module, isas or RUNNABLE, folder, families=FAMILIES)  # type: ignore[arg-type]


def test_native_equals_interpreter_on_every_isa(wl: mlir.Context, tmp_path: Path) -> None:
    module = step_module()
    product = built(module, tmp_path)
    assert product.scratch_bytes == 256
    for library in product.libraries.values():
        with NativeModule(product.plan, library, product.scratch_bytes, threads=2) as native:
            for tokens in (0, 1, 5):
                inputs = step_inputs(tokens)
                expected = evaluate(module, "step", inputs)
                got = native.run("step", inputs)
                assert got.keys() == expected.keys()
                for name, value in expected.items():
                    np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_equal_specs_are_one_kernel(wl: mlir.Context, tmp_path: Path) -> None:
    product = built(step_module(), tmp_path)
    assert list(product.plan.kernels) == ["sum_rows", "write_rows"]
    launches = product.plan.entries["step"].launches
    assert [launch.kernel for launch in launches] == ["sum_rows", "sum_rows", "write_rows"] * 2
    assert {launch.location for launch in launches} == {"model.layers.0", "model.layers.1"}
    info = product.plan.kernels["sum_rows"]
    assert (info.kind, info.summary, info.dims) == ("sum", "SumSpec()", ["N"])
    assert "func.func @sum_rows" in product.sources[info.source]


def test_building_twice_gives_the_same_files(wl: mlir.Context, tmp_path: Path) -> None:
    module = step_module()
    first, second = (built(module, tmp_path / name, X86_64_V4, X86_64_V3) for name in "ab")
    assert first.plan == second.plan
    assert first.sources == second.sources
    for isa in (X86_64_V4, X86_64_V3):
        assert first.libraries[isa].read_bytes() == second.libraries[isa].read_bytes()


def test_params_and_handed_through_values(wl: mlir.Context, tmp_path: Path) -> None:
    module = mlir.Module.create()
    fixed = tensor((3, 16))
    group = make_group(module, "sum", "sum", [fixed, fixed], add)
    builder = FunctionBuilder(module, "step", {})
    x = builder.input("x", fixed)
    with builder.point:
        weight = param(name="w", shape=(3, 16), dtype="f32")
        param(name="unused", shape=(9,), dtype="f32")
        total = call(group, x, weight)
    builder.finish({"out": total, "again": total, "weight": weight, "same": x})
    product = built(module, tmp_path, RUNNABLE[0])
    assert product.plan.entries["step"].externals == ["x", "w"]
    assert product.plan.entries["step"].launches[0].tiles == 3
    x, w = np.arange(48, dtype=np.float32).reshape(3, 16), np.ones((3, 16), np.float32)
    with NativeModule(product.plan, product.libraries[RUNNABLE[0]], 0) as native:
        got = native.run("step", {"x": x}, {"w": w})
    for name, value in {"out": x + w, "again": x + w, "weight": w, "same": x}.items():
        np.testing.assert_array_equal(got[name], value)


def test_a_group_without_a_kernel_is_named(wl: mlir.Context, tmp_path: Path) -> None:
    def module_of(kind: str, columns: int) -> mlir.Module:
        module, wide = mlir.Module.create(), tensor(("T", columns))
        group = make_group(module, "sum", kind, [wide, wide], add)
        builder = FunctionBuilder(module, "step", DIMS)
        x = builder.input("x", wide)
        with builder.point, scope("model.layers.1.mlp"):
            builder.finish({"out": call(group, x, x)})
        return module

    with pytest.raises(CompileError, match=r"@sum of @step \(model.layers.1.mlp\)(.|\n)*rows of 7, not 16"):
        built(module_of("sum", 7), tmp_path)
    with pytest.raises(CompileError, match="no kernel family is of kind 'conv'; there are sum, write"):
        built(module_of("conv", 16), tmp_path)


def test_an_unfused_op_is_named(wl: mlir.Context, tmp_path: Path) -> None:
    module = mlir.Module.create()
    builder = FunctionBuilder(module, "step", DIMS)
    x = builder.input("x", ROWS)
    with builder.point, scope("model.norm"):
        builder.finish({"out": add(x, x)})
    with pytest.raises(CompileError, match=r"wl.add of @step \(model.norm\) is in no fusion group"):
        built(module, tmp_path)


def test_every_kind_that_the_passes_make_has_a_kernel_family() -> None:
    made = {kind for rules in fuse_heroes.PHASES for kind, _ in rules.values()} | {fuse_loops.KIND}
    assert made == {family.KIND for family in (*templates(), *cuda_templates())}
