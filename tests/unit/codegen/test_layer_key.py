"""Keys of layers in tuning files: what is written is read again, and names what a kernel depends on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warploom.codegen.cuda.kernels.linear_problem import LinearProblem, Norm, Weight
from warploom.codegen.cuda.layer_key import LayerKey, key_of
from warploom.codegen.cuda.tuning import table
from warploom.ir.types import DType

SIZES = st.integers(1, 1 << 18)
QUANTIZED = st.tuples(st.sampled_from(["f8", "i8", "i4"]), st.integers(1, 512), st.booleans())


@given(SIZES, SIZES, st.just(("", 0, False)) | QUANTIZED, st.booleans(), st.sampled_from(["", "residual", "swiglu"]))
def test_a_key_is_read_as_it_was_written(
    n: int, k: int, weight: tuple[str, int, bool], norm: bool, epilogue: str
) -> None:
    key = LayerKey(n, k, *weight, norm, epilogue)
    assert LayerKey.parse(str(key)) == key


def test_all_keys_of_the_table_are_keys() -> None:
    for text in table("sm_90").linear:
        assert str(LayerKey.parse(text)) == text


@pytest.mark.parametrize(
    ("problem", "key"),
    [
        (LinearProblem(6144, 4096), "6144x4096"),
        (LinearProblem(28672, 4096, norm=Norm(1e-5, DType.BF16), epilogue="swiglu"), "28672x4096_rms_swiglu"),
        (LinearProblem(64, 128, weight=Weight(DType.I4, 4, DType.F16, offset=True)), "64x128_i4g4x"),
        (LinearProblem(64, 128, epilogue="residual", weight=Weight(DType.F8, 1)), "64x128_f8g1_residual"),
    ],
    ids=str,
)
def test_a_key_says_what_tiles_depend_on(problem: LinearProblem, key: str) -> None:
    assert key_of(problem) == key
    assert LayerKey.parse(key).width == problem.width
