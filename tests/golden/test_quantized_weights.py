"""GPTQ and AWQ words mean what GPTQModel and AutoAWQ make of them; see `record_quantized_weights.py`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from warploom.frontend.quantized.format import read_quantized, values
from warploom.frontend.tensors import LazyTensor

DTYPES = {"int32": "i32", "float16": "f16"}
RECORDED = np.load(Path(__file__).with_name("quantized_weights.npz"))
CASES = sorted({name.partition("/")[0] for name in RECORDED})


def config_of(case: str) -> dict[str, Any]:
    method, bits, _, *kind = case.split(".")
    return {"quant_method": method, "bits": int(bits)} | ({"checkpoint_format": kind[0]} if kind else {})


@pytest.mark.parametrize("case", CASES)
def test_words_mean_what_others_make_of_them(case: str) -> None:
    arrays = {name.partition("/")[2]: RECORDED[name] for name in RECORDED if name.startswith(f"{case}/")}
    expected = arrays.pop("weight")
    stored = {
        f"m.{name}": LazyTensor(f"m.{name}", array.shape, DTYPES[array.dtype.name], case, partial(np.asarray, array))
        for name, array in arrays.items()
    }
    weight = read_quantized(config_of(case), stored, case)["m.weight"]
    np.testing.assert_allclose(weight.load().astype(np.float32), expected, rtol=1e-6, atol=2e-6)
    order = np.arange(expected.shape[1]) if weight.order is None else weight.order.load()
    parts = values(*(part.load() for part in weight.parts))
    np.testing.assert_allclose(parts, expected[:, order], rtol=1e-6, atol=2e-6)
    assert (weight.order is not None) == ("desc_act" in case)
