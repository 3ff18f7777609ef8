"""What a plan says of an entry: buffers, in-place updates, launches; and what cannot be planned."""

from __future__ import annotations

import mlir.ir as mlir
import pytest

from tests.unit.codegen.fused_programs import DIMS, KEYS, KV, LAYERS, ROWS, SLOTS, call, make_sum, make_write
from warploom.codegen.binding import Binding, Lowering, Slot
from warploom.codegen.plan import build_entry
from warploom.errors import CompileError
from warploom.ir.function import Function, FunctionBuilder, functions, scope
from warploom.ir.ops.shape import reshape
from warploom.runtime.expr import evaluate
from warploom.runtime.plan import Buffer, Entry

LAYER_BYTES = "256 * C"
OPERANDS = (Slot("input", 0), Slot("input", 1), Slot("result", 0))
SUM = Lowering((Binding("sum", OPERANDS, ("T",), "T"),))


def lowered_write(layer: int) -> Lowering:
    offset = f"{layer} * {LAYER_BYTES}" if layer else 0
    operands = (Slot("input", 0, offset), Slot("input", 1), Slot("input", 2))
    return Lowering((Binding("write", operands, ("T",), "min(T, 1)"),))


def planned(function: Function, module: mlir.Module) -> Entry:
    writes = {f"write{layer}": lowered_write(layer) for layer in range(LAYERS)}
    return build_entry(function, functions(module), {"sum": SUM, **writes})


def cache_builder(module: mlir.Module, donated: bool = True) -> tuple[FunctionBuilder, list[mlir.Value]]:
    """@step over kv, k and slots; and those."""
    builder = FunctionBuilder(module, "step", DIMS)
    kv = builder.input("kv", KV, donated=donated)
    return builder, [kv, builder.input("k", KEYS), builder.input("slots", SLOTS)]


def by_name(entry: Entry) -> dict[str, Buffer]:
    return {buffer.name: buffer for buffer in entry.buffers if buffer.aliases is None or buffer.kind == "view"}


def test_no_layer_copies_the_cache(wl: mlir.Context) -> None:
    module = mlir.Module.create()
    groups = [make_write(module, layer) for layer in range(LAYERS)]
    builder, (kv, k, slots) = cache_builder(module)
    with builder.point:
        for group in groups:
            kv = call(group, kv, k, slots)
    entry = planned(builder.finish({"kv": kv}), module)
    assert entry.arena_bytes == 0
    assert [launch.operands[0] for launch in entry.launches] == ["kv", "kv + 1 * 256 * C"]
    view = by_name(entry)["kv + 1 * 256 * C"]
    assert (view.kind, view.aliases, view.offset) == ("view", "kv", "1 * 256 * C")
    assert evaluate(view.shape[0], {"C": 5}) == 256 * 5  # the cache has two layers
    result = next(buffer for buffer in entry.buffers if buffer.kind == "result")
    assert (result.name, result.aliases, result.offset) == ("kv", "kv", None)


def test_a_later_read_of_the_old_cache_is_refused(wl: mlir.Context) -> None:
    module = mlir.Module.create()
    groups = [make_write(module, layer) for layer in range(LAYERS)]
    builder, (kv, k, slots) = cache_builder(module)
    with builder.point:
        call(groups[0], kv, k, slots)
        with scope("model.layers.1"):
            late = call(groups[1], kv, k, slots)
    with pytest.raises(CompileError, match=r"@write0 .* updates kv in place, but func.call \(model.layers.1\) reads"):
        planned(builder.finish({"kv": late}), module)


def test_returning_the_old_cache_is_refused(wl: mlir.Context) -> None:
    module = mlir.Module.create()
    group = make_write(module, 0)
    builder, (kv, k, slots) = cache_builder(module)
    with builder.point:
        new = call(group, kv, k, slots)
    with pytest.raises(CompileError, match=r"func.return .* reads the old value later"):
        planned(builder.finish({"kv": new, "before": kv}), module)


def test_returning_a_view_of_the_old_cache_is_refused(wl: mlir.Context) -> None:
    module = mlir.Module.create()
    group = make_write(module, 0)
    builder, (kv, k, slots) = cache_builder(module)
    with builder.point:
        view = reshape(kv, shape=(1, *KV.shape))
        new = call(group, kv, k, slots)
    with pytest.raises(CompileError, match=r"func.return .* reads the old value later"):
        planned(builder.finish({"kv": new, "before": view}), module)


def test_a_cache_that_is_not_donated_is_refused(wl: mlir.Context) -> None:
    module = mlir.Module.create()
    group = make_write(module, 0)
    builder, (kv, k, slots) = cache_builder(module, donated=False)
    with builder.point:
        new = call(group, kv, k, slots)
    with pytest.raises(CompileError, match="which is not donated"):
        planned(builder.finish({"kv": new}), module)


def test_a_result_that_would_copy_its_donated_input_is_refused(wl: mlir.Context) -> None:
    module = mlir.Module.create()
    total = make_sum(module)
    builder = FunctionBuilder(module, "step", DIMS)
    x = builder.input("x", ROWS, donated=True)
    with builder.point:
        new = call(total, x, x)
    with pytest.raises(CompileError, match="result x of @step is not its donated input"):
        planned(builder.finish({"x": new}), module)


def test_names_are_unique(wl: mlir.Context) -> None:
    module = mlir.Module.create()
    total = make_sum(module)
    builder = FunctionBuilder(module, "step", DIMS)
    x = builder.input("x", ROWS)
    with builder.point:
        new = call(total, x, x)
    with pytest.raises(CompileError, match=r"not unique(.|\n)*found: x"):
        planned(builder.finish({"x": new}), module)


def test_a_later_read_through_a_view_is_refused(wl: mlir.Context) -> None:
    """The cache and its two reshapes are one memory: the update of one is seen in the others."""
    module = mlir.Module.create()
    groups = [make_write(module, layer) for layer in range(LAYERS)]
    builder, (kv, k, slots) = cache_builder(module)
    with builder.point:
        flat = reshape(kv, shape=(2, "C", 2, 32))
        again = reshape(flat, shape=(2, "C", 2, 1, 32))
        new = call(groups[0], again, k, slots)
        late = call(groups[1], kv, k, slots)
    with pytest.raises(CompileError, match=r"@write0 .* updates kv in place, but func.call"):
        planned(builder.finish({"new": new, "late": late}), module)


def test_a_view_is_no_memory_of_its_own(wl: mlir.Context) -> None:
    module = mlir.Module.create()
    total = make_sum(module)
    builder = FunctionBuilder(module, "step", DIMS)
    x = builder.input("x", ROWS)
    with builder.point:
        wide = reshape(call(total, x, x), shape=("T", 2, 8))
        y = call(total, reshape(wide, shape=("T", 16)), x)
    entry = planned(builder.finish({"y": y, "wide": wide}), module)
    assert [launch.operands for launch in entry.launches] == [["x", "x", "wide"], ["wide", "x", "y"]]
    assert by_name(entry)["wide"].shape == ["T", 2, 8]


def test_reads_before_the_update_are_fine(wl: mlir.Context) -> None:
    module = mlir.Module.create()
    groups = [make_write(module, layer) for layer in range(LAYERS)]
    total = make_sum(module)
    builder, (kv, k, slots) = cache_builder(module)
    x = builder.input("x", ROWS)
    with builder.point:
        y = call(total, x, x)
        kv = call(groups[0], kv, k, slots)
        kv = call(groups[1], kv, k, slots)
    entry = planned(builder.finish({"y": y, "kv": kv}), module)
    assert [launch.kernel for launch in entry.launches] == ["sum", "write", "write"]


def test_temps_are_reused_and_results_last(wl: mlir.Context) -> None:
    """A chain of six sums: the first keeps its slot, the others take turns in two."""
    module = mlir.Module.create()
    total = make_sum(module)
    builder = FunctionBuilder(module, "step", DIMS)
    x = builder.input("x", ROWS)
    with builder.point, scope("model.layers.0.mlp"):
        first = y = call(total, x, x)
        for _ in range(5):
            y = call(total, y, y)
    entry = planned(builder.finish({"y": y, "first": first}), module)
    assert entry.arena_bytes == f"{3 * 64}*T"
    assert {launch.location for launch in entry.launches} == {"model.layers.0.mlp"}
    assert (entry.dims["T"].min, entry.dims["T"].max) == (0, 8)
    buffers = by_name(entry)
    assert [buffer.name for buffer in entry.buffers if buffer.kind == "result"] == ["first", "y"]
    assert buffers["first"].offset != buffers["y"].offset
    assert entry.launches[0].operands == ["x", "x", "first"]


def test_a_kernel_that_reads_a_foreign_dim_is_refused(wl: mlir.Context) -> None:
    module = mlir.Module.create()
    total = make_sum(module)
    builder = FunctionBuilder(module, "step", DIMS)
    x = builder.input("x", ROWS)
    with builder.point:
        function = builder.finish({"y": call(total, x, x)})
    with pytest.raises(CompileError, match=r"dims that @step lacks(.|\n)*expected: C, T(.|\n)*found: Q"):
        build_entry(function, functions(module), {"sum": Lowering((Binding("sum", OPERANDS, ("Q",), "T"),))})
