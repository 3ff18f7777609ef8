"""What each pass promises beyond keeping the meaning; how many programs have to confirm it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial

import mlir.ir as mlir

from tests.property.pass_properties import Pass, PassCase
from tests.targets import EAGER, MODEST, ROUNDING, UNABLE
from warploom.ir.function import functions
from warploom.ir.op import op_of
from warploom.ir.ops.columns import place_columns
from warploom.ir.ops.elementwise import add
from warploom.ir.ops.head_linear import head_linear
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import rms_norm
from warploom.ir.ops.parameters import param
from warploom.ir.ops.quantized_linear import quantized_linear, scaled_linear
from warploom.ir.patterns import is_elementwise, weight_operands
from warploom.ir.rewrite import entries, is_op, is_weight, producer
from warploom.ir.target import Target
from warploom.ir.types import DType, type_of
from warploom.passes.assign_layouts import assign_layouts
from warploom.passes.cse import cse
from warploom.passes.dce import dce
from warploom.passes.decompose import decompose
from warploom.passes.defer_norms import defer_norms
from warploom.passes.donate import donate
from warploom.passes.fuse_heroes import fuse_heroes
from warploom.passes.fuse_loops import fuse_loops
from warploom.passes.hoist_weights import hoist_weights
from warploom.passes.inline_groups import inline_groups
from warploom.passes.keep_sums_wide import keep_sums_wide
from warploom.passes.merge_linears import merge_linears
from warploom.passes.narrow_weights import narrow_weights
from warploom.passes.order_inputs import order_inputs
from warploom.passes.pipeline import pipeline, run
from warploom.passes.quantization.scheme import Rules
from warploom.passes.quantize_activations import quantize_activations
from warploom.passes.require_kernels import require_kernels
from warploom.passes.simplify import simplify

EXAMPLES = int(os.environ.get("WARPLOOM_PROGRAMS", "200"))  # generated programs a pass; `tools/nightly` asks for more
MODELS = max(1, EXAMPLES // 20)  # tampered models a pass


def num_ops(module: mlir.Module) -> int:
    """Ops of the entries, calls counted as one."""
    return sum(len(f.ops) for f in entries(module))


def run_time_weight_ops(module: mlir.Module) -> int:
    """Ops of the entries that compute on parameters alone."""
    return sum(
        op_of(op) is not param and any(is_weight(r) for r in op.results) for f in entries(module) for op in f.ops
    )


def products(module: mlir.Module) -> list[mlir.Operation]:
    """Products with one weight, whatever its format; those with chosen experts know no layouts."""
    return [op for f in entries(module) for op in f.ops if is_op(op, linear, quantized_linear, scaled_linear)]


def num_products(module: mlir.Module) -> int:
    """Products with weights: one launch each."""
    return len(products(module))


def weight_bytes(module: mlir.Module) -> int:
    """Bytes that the products of one step read of their weights."""
    return sum(_bytes(weight_operands(op)[0]) for op in products(module))


def head_bytes(module: mlir.Module) -> int:
    """Bytes that the products by head of one step read of their weights."""
    return sum(_bytes(op.operands[1]) for f in entries(module) for op in f.ops if is_op(op, head_linear))


def num_norms(module: mlir.Module) -> int:
    """Norms before products: a pass over memory each, where no kernel takes them."""
    return sum(is_op(op, rms_norm) for f in entries(module) for op in f.ops)


def num_composites(module: mlir.Module) -> int:
    """Ops that still have a decomposition."""
    return sum((op := op_of(o)) is not None and op.decompose is not None for f in entries(module) for o in f.ops)


def in_rows(module: mlir.Module) -> int:
    """Products whose weight no layout was chosen for."""
    return sum(op.attributes["layout"].value == "row" for op in products(module))


def num_calls(module: mlir.Module) -> int:
    """Calls of groups."""
    return sum(op.name == "func.call" for f in entries(module) for op in f.ops)


def _bytes(value: mlir.Value) -> int:
    type_ = type_of(value)
    return math.prod(type_.resolve({})) * type_.dtype.numpy.itemsize if type_.is_static else 0


def one_space_each(module: mlir.Module) -> str | None:
    """Groups of kind `loops` compute one op's results, or those of elementwise ops of one shape: what kernels do."""
    for name, group in functions(module).items():
        if group.is_private and group.operation.attributes["wl.kind"].value == "loops":
            roots = {value.owner.operation for value in group.results.values()}
            shapes = {type_of(root.results[0]).shape for root in roots}
            if len(roots) > 1 and not (len(shapes) == 1 and all(map(is_elementwise, roots))):  # none: nobody reads it
                return f"@{name} has {len(roots)} roots that share no loops"
    return None


ANY_ORDER: Sequence[Pass] = (
    simplify,
    cse,
    dce,
    merge_linears,
    partial(defer_norms, target=EAGER),
    partial(assign_layouts, target=EAGER),
    hoist_weights,
    donate,
    decompose,
)


def num_rounded_sums(module: mlir.Module) -> int:
    """Sums that are rounded to bf16."""
    return sum(is_op(op, add) and type_of(op.results[0]).dtype is DType.BF16 for f in entries(module) for op in f.ops)


def num_wide_products(module: mlir.Module) -> int:
    """Products of quantized weights with activations that are not."""
    return sum(is_op(op, quantized_linear) for f in entries(module) for op in f.ops)


def num_placed(module: mlir.Module) -> int:
    """Products of weights whose columns are put where they belong before."""
    weights = (op.operands[1] for f in entries(module) for op in f.ops if is_op(op, linear))
    return sum(producer(weight, place_columns) is not None for weight in weights)


def ordered(module: mlir.Module) -> None:
    """`order_inputs`, and what it leaves unread removed."""
    order_inputs(module, Rules("checkpoint"))
    dce(module)


def widened(module: mlir.Module) -> None:
    """`keep_sums_wide`, and what it leaves unread removed."""
    keep_sums_wide(module)
    dce(module)


def piped(target: Target) -> Pass:
    """The whole pipeline for a target, verified after every pass, as one pass."""

    def whole_pipeline(module: mlir.Module) -> None:
        for _ in run(module, pipeline(target, "f32")):
            pass

    return whole_pipeline


FUSION = (donate, partial(fuse_heroes, target=EAGER), decompose, fuse_loops)
CASES = {
    "simplify": PassCase(simplify, measure=num_ops),
    "cse": PassCase(cse, measure=num_ops),
    "dce": PassCase(dce, measure=num_ops),
    "merge_linears": PassCase(merge_linears, exact=False, measure=num_products),
    "defer_norms": PassCase(partial(defer_norms, target=EAGER), exact=False, measure=num_norms),
    "narrow_weights_f32": PassCase(partial(narrow_weights, dtype=DType.F32), measure=num_products),
    "assign_layouts": PassCase(partial(assign_layouts, target=EAGER), exact=False, measure=in_rows),
    "hoist_weights": PassCase(hoist_weights, measure=run_time_weight_ops),
    "donate": PassCase(donate, measure=num_ops),
    "fuse_heroes_eager": PassCase(partial(fuse_heroes, target=EAGER), before=(donate,), measure=num_ops),
    "fuse_heroes_modest": PassCase(partial(fuse_heroes, target=MODEST), before=(donate,), measure=num_ops),
    "fuse_heroes_unable": PassCase(partial(fuse_heroes, target=UNABLE), before=(donate,), measure=num_ops),
    "decompose": PassCase(decompose, exact=False, measure=num_composites),
    "fuse_loops": PassCase(fuse_loops, before=(decompose, simplify, cse), measure=num_ops, ensures=one_space_each),
    "require_kernels": PassCase(partial(require_kernels, target=EAGER), before=FUSION[:2], measure=num_ops),
    "inline_groups": PassCase(inline_groups, before=FUSION, measure=num_calls),
}
FORMAT_CASES = {  # on programs of `format_motifs`
    "keep_sums_wide": PassCase(widened, exact=False, rounds=DType.BF16, measure=num_rounded_sums),
    "quantize_activations": PassCase(
        partial(quantize_activations, target=ROUNDING), exact=False, measure=num_wide_products
    ),
    "order_inputs": PassCase(ordered, exact=False, measure=num_placed),
}
PIPELINES = {  # a second run may find equal calls, which the last pass has made
    target.name: PassCase(piped(target), exact=False, idempotent=False) for target in (EAGER, MODEST, UNABLE)
}
