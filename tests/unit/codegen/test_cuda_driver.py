"""From a fused module to a plan for the GPU: which groups are linear layers, and what launches them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import mlir.ir as mlir
import pytest

from tests.unit.codegen.fused_programs import make_group
from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.driver import CudaProduct, compile_entries
from warploom.codegen.cuda.kernel import CudaKernelSpec, Match, Template, one_launch
from warploom.codegen.cuda.kernels import linear as family
from warploom.codegen.cuda.resources import Resources
from warploom.codegen.cuda.target import cuda
from warploom.codegen.cuda.templates import templates
from warploom.errors import CompileError
from warploom.ir.context import new_context
from warploom.ir.dims import DimRange
from warploom.ir.function import FunctionBuilder, scope
from warploom.ir.ops.activation import swiglu
from warploom.ir.ops.elementwise import add, mul
from warploom.ir.ops.elementwise import cast as cast_op
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.parameters import param
from warploom.ir.ops.quantized_linear import quantized_linear
from warploom.ir.ops.shape import slice_axis
from warploom.ir.types import DType, TensorType, tensor
from warploom.ir.verify import verify
from warploom.passes.fuse_heroes import fuse_heroes
from warploom.runtime.expr import evaluate
from warploom.runtime.plan import DimParam, Launch, PointerParam, TensorMapParam

TARGET = CudaTarget("sm_90")
T, K, WIDE = 40, 1024, 128
ROWS = tensor(("T", K), DType.BF16)
GAIN, SQUARE, PAIR = tensor((K,)), tensor((K, K), DType.BF16), tensor((2 * WIDE, K), DType.BF16)


def product_of(x: mlir.Value, weight: mlir.Value, n: int = K) -> mlir.Value:
    return linear(x, weight, n=n, layout="row")


def gated(both: mlir.Value) -> mlir.Value:
    return swiglu(*(slice_axis(both, axis=1, start=start, stop=start + WIDE) for start in (0, WIDE)))


def step_module() -> mlir.Module:
    """@step: an attention output added to the residual stream, then half of an MLP."""
    module = mlir.Module.create()
    builder = FunctionBuilder(module, "step", {"T": DimRange(1, T)})
    x = builder.input("x", ROWS)
    with builder.point:
        gain = param(name="gain", shape=(K,), dtype="f32")
        square = param(name="square", shape=(K, K), dtype="bf16")
        pair = param(name="pair", shape=(2 * WIDE, K), dtype="bf16")
        with scope("model.layers.0.self_attn"):
            x = add(product_of(x, square), x)
        with scope("model.layers.0.mlp"):
            y = gated(product_of(rms_norm(x, gain, eps=1e-5), pair, 2 * WIDE))
    builder.finish({"y": y})
    verify(module)
    return module


@pytest.fixture(scope="module")
def product() -> CudaProduct:
    with new_context(), mlir.Location.unknown():
        module = step_module()
        fuse_heroes(module, cuda(TARGET))
        return compile_entries(module, TARGET)


def launched(product: CudaProduct, tokens: int) -> list[Launch]:
    launches = product.plan.entries["step"].launches
    dims = {"T": tokens}
    return [x for x in launches if x.when is None or x.when.min <= evaluate(x.when.value, dims) <= x.when.max]


def shared_bytes(product: CudaProduct) -> int:
    """The most that a kernel takes."""
    return max(kernel.cuda.shared_bytes for kernel in product.plan.kernels.values() if kernel.cuda is not None)


def test_each_layer_runs_once_whatever_the_tokens(product: CudaProduct) -> None:
    for tokens in range(1, T + 1):
        launches = [launch for launch in launched(product, tokens) if "rms_norm" not in launch.kernel]
        assert [launch.location for launch in launches] == ["model.layers.0.self_attn", "model.layers.0.mlp"]
        assert ("gemv" in launches[0].kernel) == (tokens <= 4)  # as for the tuned layer that is nearest
        for launch in launches:
            grid = [evaluate(extent, {"T": tokens}) for extent in launch.grid]
            assert min(grid) > 0
            assert evaluate(launch.tiles, {"T": tokens}) == grid[0] * grid[1] * grid[2]


def test_no_kernel_is_made_for_more_tokens_than_there_can_be(product: CudaProduct) -> None:
    assert not [name for name in product.plan.kernels if "gemm" in name.replace("skinny", "")]
    ends = [launch.when.min for launch in product.plan.entries["step"].launches if launch.when is not None]
    assert max(ends) <= T


def test_the_memory_of_a_group_lies_beside_what_it_reads(product: CudaProduct) -> None:
    entry = product.plan.entries["step"]
    buffers = {buffer.name: buffer for buffer in entry.buffers}
    dims = {"T": T}
    partials = [x for x in entry.launches if buffers[x.operands[-1]].kind == "zeroed"]
    assert partials  # the layer of pairs has so few tiles that its columns are split
    for launch in partials:
        *_, sums, counters = (buffers[name] for name in launch.operands)
        assert (sums.kind, sums.dtype) == ("temp", "f32")
        end = evaluate(counters.offset or 0, dims) + 4 * evaluate(counters.shape[0], dims)
        assert end <= evaluate(entry.zeroed_bytes, dims)
    for launch in entry.launches:
        places = []
        for buffer in (buffers[name] for name in dict.fromkeys(launch.operands)):
            if buffer.kind in ("temp", "result"):
                size = {"f32": 4, "bf16": 2}[buffer.dtype]
                for extent in buffer.shape:
                    size *= evaluate(extent, dims)
                begin = evaluate(buffer.offset or 0, dims)
                places.append((begin, begin + size))
        places.sort()
        assert all(end <= begin for (_, end), (begin, _) in pairwise(places))
        assert places[-1][1] <= evaluate(entry.arena_bytes, dims)


def test_a_kernel_says_how_it_is_launched_and_where_its_code_is(product: CudaProduct) -> None:
    used = {launch.kernel for launch in product.plan.entries["step"].launches}
    assert used == product.plan.kernels.keys()
    for name, kernel in product.plan.kernels.items():
        info = kernel.cuda
        assert info is not None
        assert {kernel.source, info.cubin, info.ptx, info.ttir} - {None} <= product.files.keys()
        assert product.files[info.cubin].startswith(b"\x7fELF")
        assert f"def {name}(".encode() in product.files[kernel.source]
        assert f".entry {name}(".encode() in product.files[info.ptx]
        assert info.pdl
        kinds = [type(param) for param in info.params]
        assert kinds.count(DimParam) == len(kernel.dims)
        assert PointerParam in kinds
        for launch in (x for x in product.plan.entries["step"].launches if x.kernel == name):
            assert len(launch.operands) == len(kinds) - len(launch.dims)
    maps = [p for k in product.plan.kernels.values() if k.cuda for p in k.cuda.params if isinstance(p, TensorMapParam)]
    assert {param.dtype for param in maps} == {"bf16"}


@pytest.fixture
def module(wl: mlir.Context) -> mlir.Module:
    return mlir.Module.create()


def matched(module: mlir.Module, types: list[TensorType], body: Callable[..., mlir.Value]) -> Match | str:
    return family.match(make_group(module, "group", "linear", types, body), TARGET)


def test_operands_are_found_whatever_their_order(module: mlir.Module) -> None:
    def body(weight: mlir.Value, residual: mlir.Value, gain: mlir.Value, x: mlir.Value) -> mlir.Value:
        return add(residual, product_of(rms_norm(x, gain, eps=1e-6), weight))

    found = matched(module, [SQUARE, ROWS, GAIN, ROWS], body)
    assert isinstance(found, Match)
    (step,) = found.variants[0].steps
    assert [o.name for o in step.spec.operands] == ["x", "gain", "w", "residual", "out"]
    assert [(slot.side, slot.index) for slot in step.operands] == [
        ("input", 3),
        ("input", 2),
        ("input", 0),
        ("input", 1),
        ("result", 0),
    ]


def test_a_cast_before_the_head_costs_nothing(module: mlir.Module) -> None:
    found = matched(module, [ROWS, SQUARE], lambda x, w: product_of(cast_op(x, dtype="f32"), w))
    assert isinstance(found, Match)
    x, _, out = found.variants[0].steps[0].spec.operands
    assert (x.dtype, out.dtype) == (DType.BF16, DType.F32)


@pytest.mark.parametrize(
    ("types", "body", "reason"),
    [
        ([ROWS, tensor((K, K))], product_of, "the weight must be bf16, i8, f8e4m3 in rows"),
        ([ROWS, SQUARE], lambda x, w: add(y := product_of(x, w), y), "adds the product to itself"),
        ([ROWS, SQUARE], lambda x, w: mul(product_of(x, w), x), "no epilogue for wl.mul"),
        ([ROWS, SQUARE], lambda x, w: product_of(mul(x, x), w), "takes a norm, a rounding, a linear and an epilogue"),
        (
            [ROWS, tensor((K // 32, K, 32), DType.I8), tensor((K // 32, 1, 32))],
            lambda x, q, scale: quantized_linear(x, q, scale, n=K, layout="panel"),
            "the weight must be bf16, i8, f8e4m3 in rows",
        ),
    ],
    ids=["f32_weight", "doubled", "product", "square", "panels"],
)
def test_refusals_say_why(
    module: mlir.Module, types: list[TensorType], body: Callable[..., mlir.Value], reason: str
) -> None:
    found = matched(module, types, body)
    assert isinstance(found, str)
    assert reason in found


def test_what_does_not_fit_gets_a_smaller_tile(
    wl: mlir.Context, product: CudaProduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = shared_bytes(product)
    monkeypatch.setattr(Resources, "excess", lambda self, target: "a moon" if self.shared_bytes >= most else None)
    module = step_module()
    fuse_heroes(module, cuda(TARGET))
    smaller = compile_entries(module, TARGET)
    assert shared_bytes(smaller) < most
    for tokens in range(1, T + 1):
        assert [x.kernel.split("_")[0] for x in launched(smaller, tokens)].count("linear") == 2


def test_what_fits_with_no_tile_is_refused_by_name(wl: mlir.Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Resources, "excess", lambda self, target: "a moon of memory")
    module = step_module()
    fuse_heroes(module, cuda(TARGET))
    with pytest.raises(CompileError, match="does not fit sm_90: it needs a moon of memory"):
        compile_entries(module, TARGET)


def test_a_group_without_a_kernel_is_named(wl: mlir.Context) -> None:
    module = step_module()
    fuse_heroes(module, cuda(TARGET))
    nothing = cast(Template, SimpleNamespace(KIND="linear", match=lambda group, target: "not today"))
    with pytest.raises(CompileError, match=r"(?s)no kernel computes .*model.layers.0.self_attn.*not today"):
        compile_entries(module, TARGET, families=[nothing])


def test_two_kernels_of_one_name_are_refused(wl: mlir.Context) -> None:
    module = step_module()
    fuse_heroes(module, cuda(TARGET))

    def same_name(group: Any, target: CudaTarget) -> Match:
        spec = SimpleNamespace(name="same", group=group.name)
        return one_launch(cast(CudaKernelSpec, spec), (), {})

    with pytest.raises(CompileError, match="two kernels are named same"):
        compile_entries(module, TARGET, families=[cast(Template, SimpleNamespace(KIND="linear", match=same_name))])


def test_a_family_that_forgets_an_operand_is_named(wl: mlir.Context) -> None:
    module = step_module()
    fuse_heroes(module, cuda(TARGET))

    def forgetful(group: Any, target: CudaTarget) -> Match:
        spec = SimpleNamespace(name=group.name, operands=("x", "w"), dims=(), grid=(1, 1, 1))
        return one_launch(cast(CudaKernelSpec, spec), (), {})

    with pytest.raises(CompileError, match=r"(?s)has 2 operands.*0 slots"):
        compile_entries(module, TARGET, families=[cast(Template, SimpleNamespace(KIND="linear", match=forgetful))])


def test_all_families_are_found() -> None:
    assert "linear" in {template.KIND for template in templates()}
