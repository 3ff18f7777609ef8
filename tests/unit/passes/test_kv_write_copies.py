"""A cache that is not given away is copied: no kernel may write into it."""

from __future__ import annotations

import mlir.ir as mlir

from tests.targets import EAGER
from warploom.ir.context import new_context
from warploom.ir.dims import DimRange
from warploom.ir.function import FunctionBuilder, scope
from warploom.ir.ops.kv_write import kv_write
from warploom.ir.rewrite import entries
from warploom.ir.types import DType, tensor
from warploom.passes.donate import donate
from warploom.passes.fuse_heroes import fuse_heroes


def test_a_write_into_a_kept_cache_is_no_group() -> None:
    with new_context(), mlir.Location.unknown():
        module = mlir.Module.create()
        builder = FunctionBuilder(module, "step", {"T": DimRange(1, 4)})
        kv = builder.input("kv", tensor((1, 4, 2, 1, 16 * 16)))
        new, slots = builder.input("k", tensor(("T", 1, 16))), builder.input("slots", tensor(("T",), DType.I32))
        with builder.point, scope("layer"):
            written = kv_write(kv, new, new, slots, layer=0, page_size=16, k_layout="dim_major")
        builder.finish({"kv": written})
        donate(module)
        fuse_heroes(module, EAGER)
        assert [op.name for f in entries(module) for op in f.ops] == ["wl.kv_write"]
