"""Linear layers on CUDA: in Triton's interpreter, every kernel computes the layer for any number of tokens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.codegen.triton_interpreter import run_kernel
from warploom.codegen.binding import Slot
from warploom.codegen.cuda.architecture import ARCHITECTURES, CudaTarget
from warploom.codegen.cuda.candidates import candidates
from warploom.codegen.cuda.compile import compile_kernels
from warploom.codegen.cuda.kernel import Match, TensorMap, Variant
from warploom.codegen.cuda.kernels.gemv import GemvSpec
from warploom.codegen.cuda.kernels.linear import linear_spec, lower
from warploom.codegen.cuda.kernels.linear_problem import LinearProblem, Norm, Weight
from warploom.codegen.cuda.kernels.ring_gemm import RingSpec
from warploom.codegen.cuda.kernels.segment_gemv import SegmentSpec, segments
from warploom.codegen.cuda.kernels.skinny_gemm import SkinnySpec
from warploom.codegen.cuda.kernels.stream_gemv import StreamSpec, streams
from warploom.codegen.cuda.kernels.tiles import (
    Choice,
    GemmTile,
    GemvTile,
    MixedTile,
    SegmentTile,
    SkinnyTile,
    StreamTile,
    WarpTile,
)
from warploom.codegen.cuda.kernels.warp_gemm import WarpGemmSpec
from warploom.codegen.cuda.layer_key import key_of
from warploom.codegen.cuda.scope import Scope
from warploom.codegen.cuda.tuning import choices_for, table
from warploom.errors import CompileError
from warploom.ir.layouts import pack_array, unpack_array
from warploom.ir.ops.dequantize import dequantize
from warploom.ir.ops.quantize import quantize
from warploom.ir.types import DType
from warploom.runtime.expr import evaluate

SM_90 = CudaTarget("sm_90")
ROOM = 70  # rows of the buffers: as many as the largest block of tokens reaches
PROBLEMS = {
    "plain": LinearProblem(72, 96),
    "ragged": LinearProblem(50, 136, norm=Norm(1e-5, DType.BF16), bias=DType.BF16),
    "residual": LinearProblem(64, 200, epilogue="residual", bias=DType.F32),
    "swiglu": LinearProblem(104, 72, epilogue="swiglu"),
    "norm_swiglu": LinearProblem(128, 64, norm=Norm(0.1, DType.F32), epilogue="swiglu"),
    "norm_residual": LinearProblem(40, 128, norm=Norm(1e-5, DType.F32), epilogue="residual"),
    "f32": LinearProblem(33, 64, x=DType.F32, out=DType.F32),
    "to_f32": LinearProblem(40, 64, out=DType.F32),
}
F8 = Weight(DType.F8, 1)
I8_ROWS, I8_GROUPS = Weight(DType.I8, 1), Weight(DType.I8, 3, DType.F16)
ROUNDED = {
    "plain": LinearProblem(72, 96, weight=F8, rounded=True),
    "norm": LinearProblem(50, 144, norm=Norm(1e-5, DType.BF16), weight=F8, rounded=True),
    "residual": LinearProblem(64, 208, epilogue="residual", weight=F8, rounded=True, bias=DType.BF16),
    "norm_swiglu": LinearProblem(128, 64, norm=Norm(0.1, DType.F32), epilogue="swiglu", weight=F8, rounded=True),
    "to_f32": LinearProblem(40, 64, out=DType.F32, weight=F8, rounded=True),
}
MIXED = {
    "rows": LinearProblem(72, 96, weight=I8_ROWS),
    "groups": LinearProblem(50, 96, weight=I8_GROUPS, epilogue="residual", bias=DType.BF16),
    "swiglu": LinearProblem(104, 200, weight=I8_ROWS, epilogue="swiglu"),
    "of_f8": LinearProblem(40, 64, weight=Weight(DType.F8, 1)),
    "i4": LinearProblem(72, 256, weight=Weight(DType.I4, 2, DType.BF16), norm=Norm(1e-5, DType.BF16)),
    "i4_small_groups": LinearProblem(50, 128, weight=Weight(DType.I4, 4, DType.F16), epilogue="residual"),
    "i4_offsets": LinearProblem(72, 256, weight=Weight(DType.I4, 2, DType.F32, offset=True), out=DType.F32),
    "i4_groups_across_blocks": LinearProblem(40, 768, weight=Weight(DType.I4, 4, DType.F16)),  # of 192 columns
    "i4_small_offsets": LinearProblem(40, 192, weight=Weight(DType.I4, 6, DType.BF16, offset=True), epilogue="swiglu"),
}
QUANTIZED_TILES = {
    "gemm": Choice(None, GemmTile(32, 32, 32, 4, 3)),
    "gemm_tma": Choice(None, GemmTile(64, 32, 64, 4, 3, blocks=3, tma=True)),
    "gemm_halves": Choice(None, GemmTile(32, 64, 64, 4, 3, group=2, tma=True, halves=True)),
    "mixed": Choice(None, MixedTile(32, 16, 4, 3)),
    "stream": Choice(1, StreamTile(2, ahead=2, blocks=5, num_warps=1), fused_norm=True),
    "stream_wide": Choice(1, StreamTile(1, ahead=1, blocks=7, num_warps=2)),
}
TILES = {
    "gemv": Choice(1, GemvTile(4, 64, 2, num_warps=2), fused_norm=True),
    "gemv_whole_row": Choice(1, GemvTile(1, 256, 4, num_warps=2), fused_norm=True),
    "stream": Choice(1, StreamTile(2, ahead=2, blocks=5, num_warps=1), fused_norm=True),
    "stream_after_norm": Choice(1, StreamTile(4, ahead=3, blocks=2, num_warps=2)),
    "gemv_tokens": Choice(3, GemvTile(4, 64, 2, num_warps=2, block_t=3), fused_norm=True),
    "skinny": Choice(16, SkinnyTile(32, 16, 32, 4, 3)),
    "skinny_norm": Choice(16, SkinnyTile(64, 16, 64, 4, 3), fused_norm=True),
    "skinny_splits": Choice(16, SkinnyTile(32, 16, 32, 4, 3, splits=3)),
    "skinny_splits_norm": Choice(16, SkinnyTile(32, 16, 32, 4, 3, splits=2), fused_norm=True),
    "skinny_blocks": Choice(64, SkinnyTile(32, 16, 32, 4, 3, splits=2)),
    "skinny_tma": Choice(16, SkinnyTile(32, 16, 64, 4, 3, splits=2, tma=True)),
    "skinny_tma_norm": Choice(16, SkinnyTile(32, 16, 64, 4, 3, tma=True), fused_norm=True),
    "gemm": Choice(None, GemmTile(32, 32, 32, 4, 3)),
    "gemm_groups": Choice(None, GemmTile(16, 32, 64, 4, 3, group=3)),
    "gemm_tma": Choice(None, GemmTile(64, 32, 64, 4, 3, blocks=3, tma=True)),
    "gemm_halves": Choice(None, GemmTile(32, 64, 64, 4, 3, group=2, tma=True, halves=True)),
}


def lowered(problem: LinearProblem, *choices: Choice, target: CudaTarget = SM_90) -> Match:
    slots = {operand.name: Slot("input", index) for index, operand in enumerate(problem.operands)}
    return lower(problem, Scope(slots, {"T": "T"}), choices, target)


def make_arrays(problem: LinearProblem) -> dict[str, np.ndarray]:
    """Operands with room for ROOM tokens."""
    rng = np.random.default_rng(problem.n + problem.k)
    bf16 = DType.BF16.numpy
    arrays = {
        "x": rng.standard_normal((ROOM, problem.k)).astype(bf16).astype(problem.x.numpy),
        **make_weight(problem, rng),
        "residual": rng.standard_normal((ROOM, problem.width)).astype(problem.out.numpy),
        "out": np.full((ROOM, problem.width), np.nan, problem.out.numpy),
    }
    if problem.bias is not None:
        arrays["bias"] = rng.standard_normal(problem.n).astype(problem.bias.numpy)
    if problem.norm is not None:
        arrays["gain"] = rng.uniform(0.5, 1.5, problem.k).astype(problem.norm.gain.numpy)
    return arrays


def make_weight(problem: LinearProblem, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """W with its scales and offsets."""
    n, k, weight = problem.n, problem.k, problem.weight
    numbers = rng.standard_normal((n, k)) / k**0.5
    if weight.dtype is DType.BF16:
        return {"w": numbers.astype(DType.BF16.numpy)}
    largest = {DType.F8: 100.0, DType.I8: 40.0, DType.I4: 3.0}[weight.dtype] * k**0.5
    q = (numbers * largest).round().clip(-8, 7).astype(np.int8) if weight.dtype is DType.I4 else numbers * largest
    w = pack_array(q, "row4") if weight.dtype is DType.I4 else q.astype(weight.dtype.numpy)
    sides = rng.uniform(0.5, 1.5, (n, weight.groups)) / largest
    found = {"w": w, "scale": sides.astype(weight.scale.numpy)}
    if weight.offset:
        found["offset"] = rng.uniform(-0.1, 0.1, (n, weight.groups)).astype(weight.scale.numpy)
    return found


def values_of(problem: LinearProblem, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """What W stands for, by the interpreter's own op."""
    w, weight = arrays["w"], problem.weight
    if not weight.groups:
        return w.astype(np.float64)
    q = unpack_array(w, problem.n, "row4") if weight.dtype is DType.I4 else w
    offset = arrays["offset"].astype(np.float64) if weight.offset else None
    return dequantize.evaluate(q, arrays["scale"].astype(np.float64), offset)


def meaning(problem: LinearProblem, arrays: dict[str, np.ndarray], tokens: int) -> np.ndarray:
    x = arrays["x"][:tokens].astype(np.float64)
    if problem.norm is not None:
        x = x / np.sqrt((x**2).mean(1, keepdims=True) + problem.norm.eps) * arrays["gain"].astype(np.float64)
    if problem.rounded:
        rows = x.astype(DType.BF16.numpy).astype(np.float32)  # in which a tie is one
        q, scale = quantize.evaluate(rows, dtype="f8e4m3", group=0, scale_dtype="f32")
        x = q.astype(np.float64) * scale
    y = x @ values_of(problem, arrays).T + (0 if problem.bias is None else arrays["bias"].astype(np.float64))
    if problem.epilogue == "swiglu":
        gate, up = np.split(y, 2, axis=1)
        return gate / (1 + np.exp(-gate)) * up
    return y + arrays["residual"][:tokens] if problem.epilogue == "residual" else y


def run(problem: LinearProblem, match: Match, variant: Variant, arrays: dict[str, np.ndarray], tokens: int) -> None:
    """The launches of a variant; counters are zero before and after."""
    values = [arrays[operand.name] for operand in problem.operands]
    temps = []
    for temp in match.temps:
        shape = temp.type.resolve({"T": ROOM})
        fill = 0 if temp.zeroed else np.nan
        temps.append(np.full(shape, fill, temp.type.dtype.numpy))
    for step in variant.steps:
        operands = []
        for slot, operand in zip(step.operands, step.spec.operands, strict=True):
            array = (temps if slot.side == "temp" else values)[slot.index]
            if isinstance(operand, TensorMap):
                array = array.reshape([evaluate(extent, {"T": ROOM}) for extent in operand.shape])
            operands.append(array)
        run_kernel(step.spec, operands, {"T": tokens})
    for temp, array in zip(match.temps, temps, strict=True):
        assert not (temp.zeroed and array.any())


def without_pdl(variant: Variant) -> Variant:
    """The interpreter knows nothing of other kernels."""
    return replace(variant, steps=tuple(replace(s, spec=replace(s.spec, pdl=False)) for s in variant.steps))


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_kernels_compute_the_layer(problem: LinearProblem, tile: Choice) -> None:
    if isinstance(tile.tile, GemmTile) and tile.tile.tma and not problem.operands_by_tma:
        pytest.skip("choices_for gives no such tile")
    if isinstance(tile.tile, StreamTile) and not streams(problem):
        pytest.skip("rows are no whole chunks")
    match = lowered(problem, tile)
    variant = without_pdl(match.variants[0])
    for tokens in {1: (1,), 3: (1, 2, 3)}.get(tile.up_to or 0, (3, min(tile.up_to or 37, 21))):
        arrays = make_arrays(problem)
        arrays["x"][tokens:] = np.nan  # leftovers of a longer step
        run(problem, match, variant, arrays, tokens)
        expected = meaning(problem, arrays, tokens)
        scale = np.sqrt((expected**2).mean())
        error = np.abs(arrays["out"][:tokens].astype(np.float64) - expected) / (scale + np.abs(expected))
        assert error.max() < 0.02
        assert error.mean() < 0.003
        by_tma = isinstance(variant.steps[-1].spec.operands[-1], TensorMap)
        assert by_tma or np.isnan(arrays["out"][tokens:].astype(np.float32)).all()


@pytest.mark.parametrize(
    ("problem", "tile"),
    [
        *((problem, tile) for problem in ROUNDED.values() for tile in ("gemm", "gemm_tma", "gemm_halves", "stream")),
        *((problem, tile) for problem in MIXED.values() for tile in ("mixed", "gemm", "stream", "stream_wide")),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_kernels_compute_layers_of_quantized_weights(problem: LinearProblem, tile: str) -> None:
    test_kernels_compute_the_layer(problem, QUANTIZED_TILES[tile])


def test_equal_weights_are_unpacked_by_one_kernel() -> None:
    weight = Weight(DType.I4, 2, DType.BF16)
    problems = [LinearProblem(72, 256, weight=weight), LinearProblem(72, 256, weight=weight, epilogue="residual")]
    unpack, other = (lowered(problem, QUANTIZED_TILES["gemm"]).variants[0].steps[0].spec for problem in problems)
    assert unpack == other
    assert unpack.name.startswith("unpack")


@pytest.mark.parametrize("tile", ["skinny", "skinny_splits_norm", "skinny_tma", "gemm", "gemm_halves"])
def test_a_row_does_not_depend_on_the_other_rows(tile: str) -> None:
    problem = PROBLEMS["norm_swiglu"]
    match = lowered(problem, TILES[tile])
    rows = []
    for tokens in (2, 5, 16):
        arrays = make_arrays(problem)
        run(problem, match, without_pdl(match.variants[0]), arrays, tokens)
        rows.append(arrays["out"][:2].tobytes())
    assert len(set(rows)) == 1


def test_names_tell_all_candidates_apart() -> None:
    for problem in (PROBLEMS["norm_swiglu"], LinearProblem(4096, 4096, epilogue="residual")):
        specs = [s.spec for c in candidates(problem) for v in lowered(problem, c).variants for s in v.steps]
        assert len({spec.name for spec in specs}) == len(set(specs))
        assert all(spec.name.isidentifier() for spec in specs)


@pytest.mark.parametrize(
    "choice",
    [
        Choice(None, SkinnyTile(32, 16, 32, 4, 3, splits=2)),
        Choice(2, GemvTile(1, 64, 2, 4)),
        Choice(None, GemvTile(1, 64, 2, 4, block_t=4)),
    ],
    ids=str,
)
def test_a_choice_must_not_reach_beyond_its_tile(choice: Choice) -> None:
    with pytest.raises(CompileError, match="more tokens than its tile can take"):
        lowered(PROBLEMS["plain"], choice)


def test_variants_share_temps_as_large_as_any_needs() -> None:
    tiles = [Choice(16, SkinnyTile(32, 16, 32, 4, 3, splits=2)), Choice(64, SkinnyTile(32, 16, 32, 4, 3, splits=4))]
    match = lowered(PROBLEMS["ragged"], *tiles, Choice(None, GemmTile(32, 32, 32, 4, 3)))
    normed, partials, counters = match.temps
    assert [str(dim) for dim in normed.type.shape] == ["T", "136"]
    assert partials.type.shape == (4, 2 * 4, 32 * 16)
    assert counters.type.shape == (2 * 4,)
    assert [temp.zeroed for temp in match.temps] == [False, False, True]


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_choices_cover_all_token_counts_with_what_the_architecture_has(arch: str, problem: LinearProblem) -> None:
    target = CudaTarget(arch)
    choices = choices_for(problem, target)
    ends = [choice.up_to for choice in choices]
    assert ends[0] == 1
    assert ends[-1] is None
    assert ends[:-1] == sorted(ends[:-1])
    if not (target.has_tma and problem.operands_by_tma):
        operands = [
            o for c in choices for s in lowered(problem, c, target=target).variants[0].steps for o in s.spec.operands
        ]
        assert not any(isinstance(operand, TensorMap) for operand in operands)


@pytest.mark.parametrize(
    "problem",
    [
        LinearProblem(4096, 14336, norm=Norm(1e-5, DType.F32), epilogue="residual"),
        LinearProblem(6144, 4096, norm=Norm(1e-5, DType.F32)),  # in the table, as the next is
        LinearProblem(4096, 14336, epilogue="residual"),
    ],
    ids=key_of,
)
def test_deterministic_kernels_sum_each_row_in_one_order(problem: LinearProblem) -> None:
    match = lowered(problem, *choices_for(problem, CudaTarget("sm_90", deterministic=True)))
    for variant in match.variants:
        *norm, product = (step.spec for step in variant.steps)
        assert ["rms_norm" in spec.name for spec in norm] == [True] * (problem.norm is not None)
        assert not isinstance(product, GemvSpec)
        assert not isinstance(product, RingSpec)
        assert not isinstance(product, SkinnySpec) or product.tile.splits == 1
    assert match.variants[0].when is not None
    assert match.variants[0].when.min == 1


@pytest.mark.parametrize(
    "problem",
    [
        LinearProblem(400, 1024, norm=Norm(1e-5, DType.F32), epilogue="swiglu", weight=F8, rounded=True),
        LinearProblem(136, 1024, weight=Weight(DType.I4, 16, DType.F16), epilogue="residual", bias=DType.BF16),
        LinearProblem(136, 1024, weight=Weight(DType.I4, 32, DType.F16)),
    ],
    ids=key_of,
)
def test_segments_which_the_interpreter_cannot_run_compile_and_fit(problem: LinearProblem) -> None:
    assert segments(problem)
    spec = SegmentSpec(problem, SegmentTile(ahead=3, blocks=5, num_warps=4))
    (kernel,) = compile_kernels([spec], SM_90)
    assert kernel.resources.spill_bytes == 0


@pytest.mark.parametrize(
    ("problem", "tile"),
    [
        (LinearProblem(28672, 4096, epilogue="swiglu"), WarpTile(256, num_stages=4)),
        (LinearProblem(200, 328, bias=DType.F32), WarpTile(256, num_stages=3)),
        (LinearProblem(4096, 14336, DType.F8, epilogue="residual", weight=F8), WarpTile(128, num_stages=6)),
    ],
    ids=lambda value: key_of(value) if isinstance(value, LinearProblem) else "",
)
def test_warps_for_copies_compile_and_fit(problem: LinearProblem, tile: WarpTile) -> None:
    """Like attention of prompts: one group of warps starts the others, two multiply, one brings tiles."""
    (kernel,) = compile_kernels([WarpGemmSpec(problem, tile)], SM_90)
    assert kernel.resources.num_warps == 16
    assert kernel.resources.spill_bytes == 0
    assert "bar.sync \t0, 128" not in kernel.ptx, "the first warps have a barrier of their own"
    assert kernel.ptx.index("cp.async.bulk.tensor") < kernel.ptx.rindex("griddepcontrol.wait")


def test_a_problem_that_its_tuned_tile_does_not_take_gets_others() -> None:
    tuned = LinearProblem(4096, 4096, epilogue="residual", weight=F8, rounded=True)
    assert any(isinstance(choice.tile, WarpTile) for choice in choices_for(tuned, SM_90))
    wide = replace(tuned, out=DType.F32)
    assert key_of(wide) == key_of(tuned)
    lowered(wide, *choices_for(wide, SM_90))
    with pytest.raises(CompileError, match="no kernel with this tile"):
        lowered(wide, Choice(None, WarpTile(128, num_stages=6)))


def test_segments_are_whole_and_of_one_group() -> None:
    assert not segments(LinearProblem(64, 576, weight=F8))
    assert segments(LinearProblem(64, 1024, weight=Weight(DType.I4, 32, DType.F16)))
    assert not segments(LinearProblem(64, 1024, weight=Weight(DType.I4, 32, DType.F32)))  # four scales are too long
    assert not segments(LinearProblem(64, 1024, weight=Weight(DType.I4, 64, DType.F16)))  # groups of 16
    assert not segments(LinearProblem(64, 3072, weight=Weight(DType.I4, 32, DType.F16)))  # of 96
    assert not segments(LinearProblem(64, 1024, weight=Weight(DType.I4, 8, DType.F16, offset=True)))
    assert not segments(LinearProblem(64, 1024))


@pytest.mark.parametrize("problem", [ROUNDED["norm_swiglu"], MIXED["rows"], MIXED["i4"]], ids=key_of)
def test_one_token_of_quantized_weights_is_one_launch_but_in_deterministic_mode(problem: LinearProblem) -> None:
    first, *_ = lowered(problem, *choices_for(problem, SM_90)).variants
    assert [type(step.spec) for step in first.steps] == [StreamSpec]
    invariant = choices_for(problem, CudaTarget("sm_90", deterministic=True))
    assert [choice.up_to for choice in invariant] == [None]


@pytest.mark.parametrize("arch", ["sm_80", "sm_86", "sm_90"])
@pytest.mark.parametrize("k", [40, 64, 128, 192, 256, 264, 1024])
def test_deterministic_sums_begin_with_nothing_whatever_the_tile(arch: str, k: int) -> None:
    """Of a single product Triton makes one that begins with the residual, of several in a loop it does not.

    Tiny Llama's output projections had one piece of columns up to 32 tokens, two above: a prompt's last bits depended
    on what else was in the step.
    """
    problem = LinearProblem(192, k, epilogue="residual", out=DType.F32)
    target = CudaTarget(arch, deterministic=True)
    for choice in choices_for(problem, target):
        assert isinstance(choice.tile, SkinnyTile | GemmTile)
        assert choice.tile.block_k < k
        assert linear_spec(problem, choice.tile, target).source()


def test_of_a_single_product_triton_makes_one_that_begins_with_the_residual() -> None:
    """Why tiles are cut; when this fails, Triton has changed and `_in_pieces` is not needed any more."""
    problem = LinearProblem(192, 64, epilogue="residual", out=DType.F32)
    tiles = (SkinnyTile(64, 16, columns, num_warps=4, num_stages=2) for columns in (64, 32))
    one, two = compile_kernels([linear_spec(problem, tile, SM_90) for tile in tiles], SM_90)
    assert "tt.dot" in one.ttir
    assert "arith.addf" not in one.ttir
    assert "arith.addf" in two.ttir


def test_the_table_of_sm_90_can_be_read_and_fits_its_keys() -> None:
    tuned = table("sm_90").linear
    assert "28672x4096_rms_swiglu" in tuned
    for choices in tuned.values():
        assert choices[-1].up_to is None
