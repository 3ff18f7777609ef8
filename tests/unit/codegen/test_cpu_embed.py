"""The embedding kernel against its numpy meaning: equal bit for bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.unit.codegen.cpu_harness import compiled, on_every_isa
from warploom.codegen.cpu.isa import Isa
from warploom.codegen.cpu.kernels.embed import EmbedSpec
from warploom.ir.layouts import pack_array
from warploom.ir.ops.linear import embed
from warploom.ir.ops.quantized_embed import quantized_embed

DTYPES = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16), "i8": np.dtype(np.int8)}


@on_every_isa
@pytest.mark.parametrize("layout", ["row", "panel"])
@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize(("rows", "columns"), [(70, 37), (64, 576)])
def test_embed_is_its_meaning(rows: int, columns: int, dtype: str, layout: str, isa: Isa) -> None:
    rng = np.random.default_rng(rows)
    table = pack_array((rng.standard_normal((rows, columns)) * 40).astype(DTYPES[dtype]), layout)
    ids = np.array([0, rows - 1, -5, rows, 2**31 - 1, 33, 33], np.int32)
    out = np.full((len(ids), columns), np.nan, np.float32)
    scales = pack_array(rng.uniform(0.01, 0.1, (rows, 1)).astype(np.float32), layout)
    scale = [scales] if dtype == "i8" else []
    compiled(EmbedSpec(rows, columns, dtype, layout), isa)([ids, table, *scale, out], {"T": len(ids)}, threads=2)
    meaning = (quantized_embed if scale else embed).evaluate
    np.testing.assert_array_equal(out, meaning(ids, table, *scale, n=rows, layout=layout).astype(np.float32))
