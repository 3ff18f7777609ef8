"""Planted bugs: each a small patch of one pass, of a kind that people do write. The properties must notice all.

A mutant replaces a function, or an entry of a table of rules; see `test_mutants`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import mlir.ir as mlir
import pytest

from tests.property.pass_cases import CASES, FORMAT_CASES
from tests.property.pass_properties import PassCase
from warploom.ir.dims import Dim
from warploom.ir.expand import expand
from warploom.ir.function import Function
from warploom.ir.op import op_of
from warploom.ir.ops.columns import place_columns
from warploom.ir.ops.elementwise import as_dtype, cast, neg, sub
from warploom.ir.ops.linear import linear
from warploom.ir.ops.norm import along_columns, along_rows, inverse_rms
from warploom.ir.ops.shape import broadcast, concat, full, gather, reshape, slice_axis, transpose
from warploom.ir.patterns import is_elementwise
from warploom.ir.rewrite import before, is_op, param_name, producer, replace, users
from warploom.ir.target import Numbers
from warploom.ir.types import DType, TensorType, type_of
from warploom.passes import (
    assign_layouts,
    cse,
    dce,
    decompose,
    defer_norms,
    donate,
    fuse_heroes,
    fuse_loops,
    hoist_weights,
    inline_groups,
    keep_sums_wide,
    merge_linears,
    narrow_weights,
    order_inputs,
    outline,
    quantize_activations,
    simplify,
)

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Mutant:
    """A bug: which pass it is in, and how to plant it."""

    case: PassCase
    plant: Patch


MUTANTS: dict[str, Mutant] = {}


def bug(case: str) -> Callable[[Patch], Patch]:
    """Register a mutant under the name of the function that plants it."""

    def register(plant: Patch) -> Patch:
        MUTANTS[plant.__name__] = Mutant({**CASES, **FORMAT_CASES}[case], plant)
        return plant

    return register


def rule(patch: pytest.MonkeyPatch, op: Any, *rules: Callable[[mlir.Operation], mlir.Value | None]) -> None:
    """Let `simplify` know other rules of an op."""
    patch.setitem(simplify.RULES, op, rules)


@bug("simplify")
def slice_of_slice_forgets_the_inner_start(patch: pytest.MonkeyPatch) -> None:
    def wrong(operation: mlir.Operation) -> mlir.Value | None:
        inner = producer(operation.operands[0], slice_axis)
        attrs = slice_axis.attrs_of(operation)
        if inner is None or slice_axis.attrs_of(inner)["axis"] != attrs["axis"]:
            return None
        with before(operation):
            result: mlir.Value = slice_axis(inner.operands[0], **attrs)
        return result

    rule(patch, slice_axis, wrong)


@bug("simplify")
def slice_of_concat_takes_the_first_part(patch: pytest.MonkeyPatch) -> None:
    def wrong(operation: mlir.Operation) -> mlir.Value | None:
        joined = producer(operation.operands[0], concat)
        first = joined.operands[0] if joined is not None else None
        return first if first is not None and type_of(first) == type_of(operation.results[0]) else None

    rule(patch, slice_axis, wrong)


@bug("simplify")
def zero_minus_x_is_x(patch: pytest.MonkeyPatch) -> None:
    rule(patch, sub, simplify._neutral(0.0, (0, 1)))


@bug("simplify")
def two_transposes_are_none(patch: pytest.MonkeyPatch) -> None:
    def wrong(operation: mlir.Operation) -> mlir.Value | None:
        inner = producer(operation.operands[0], transpose)
        source = None if inner is None else inner.operands[0]
        return source if source is not None and type_of(source) == type_of(operation.results[0]) else None

    rule(patch, transpose, wrong)


@bug("simplify")
def a_view_of_a_constant_keeps_its_old_shape(patch: pytest.MonkeyPatch) -> None:
    def wrong(operation: mlir.Operation) -> mlir.Value | None:
        constant = producer(operation.operands[0], full)
        return None if constant is None else constant.results[0]

    rule(patch, reshape, wrong)
    rule(patch, broadcast, wrong)


@bug("simplify")
def rules_are_tried_once_only(patch: pytest.MonkeyPatch) -> None:
    def once(functions: Sequence[Function], apply: Callable[[mlir.Operation], bool]) -> None:
        for function in functions:
            for operation in reversed(function.ops):
                apply(operation)

    patch.setattr(simplify, "rewrite_each", once)


@bug("simplify")
def symbols_become_their_largest_value(patch: pytest.MonkeyPatch) -> None:
    def wrong(operation: mlir.Operation) -> mlir.Value | None:
        constant, type_ = producer(operation.operands[0], full), type_of(operation.results[0])
        if constant is None or not any(isinstance(d, Dim) for d in type_.shape):
            return None
        with before(operation):
            shape = tuple(8 if isinstance(d, Dim) else d for d in type_.shape)
            result: mlir.Value = full(shape=shape, value=full.attrs_of(constant)["value"], dtype=type_.dtype.value)
        return result

    rule(patch, reshape, wrong)


@bug("cse")
def attributes_do_not_tell_ops_apart(patch: pytest.MonkeyPatch) -> None:
    honest = cse._key
    patch.setattr(cse, "_key", lambda operation: (*honest(operation)[:2], "", honest(operation)[3]))


@bug("cse")
def operands_are_compared_as_a_set(patch: pytest.MonkeyPatch) -> None:
    honest = cse._key

    def wrong(operation: mlir.Operation) -> Any:
        name, operands, attributes, types = honest(operation)
        return name, frozenset(operands), attributes, types

    patch.setattr(cse, "_key", wrong)


@bug("dce")
def chains_are_removed_one_link_at_a_time(patch: pytest.MonkeyPatch) -> None:
    honest = dce._remove_unused
    patch.setattr(dce, "_remove_unused", lambda operations: honest(operations[::-1]))


@bug("dce")
def exports_are_dead(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(dce, "is_pure", lambda operation: True)


@bug("merge_linears")
def parts_come_back_in_the_wrong_order(patch: pytest.MonkeyPatch) -> None:
    honest = merge_linears._merge

    def wrong(group: list[mlir.Operation]) -> None:
        types = {op.results[0].type for op in group}
        uses = [[(u.owner.operation, u.operand_number) for u in op.results[0].uses] for op in group]
        if len(types) == 1:
            for op, readers in zip(reversed(group), uses, strict=True):
                for reader, number in readers:
                    reader.operands[number] = op.results[0]
        honest(group)

    patch.setattr(merge_linears, "_merge", wrong)


@bug("merge_linears")
def weights_are_not_moved_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(merge_linears, "_hoist_operand", lambda value, anchor: None)


@bug("narrow_weights_f32")
def everything_is_narrowed(patch: pytest.MonkeyPatch) -> None:
    def wrong(operation: mlir.Operation, dtype: DType) -> None:
        with before(operation):
            operation.operands[1] = cast(cast(operation.operands[1], dtype="bf16"), dtype=dtype.value)

    patch.setattr(narrow_weights, "_narrow", wrong)


@bug("assign_layouts")
def a_layout_is_claimed_but_nothing_is_packed(patch: pytest.MonkeyPatch) -> None:
    def wrong(operation: mlir.Operation, layout: str) -> None:
        operation.attributes["layout"] = mlir.StringAttr.get(layout)

    patch.setattr(assign_layouts, "_assign", wrong)


@bug("hoist_weights")
def different_weights_share_a_name(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hoist_weights, "_unique", lambda name, taken: "packed")


@bug("hoist_weights")
def names_differ_from_run_to_run(patch: pytest.MonkeyPatch) -> None:
    numbers = count()
    patch.setattr(hoist_weights, "_unique", lambda name, taken: f"{name}.{next(numbers)}")


@bug("hoist_weights")
def one_weight_among_the_operands_is_enough(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(hoist_weights, "_is_foldable", lambda op: any(map(param_name, op.operands)))


@bug("hoist_weights")
def operands_are_read_in_reverse(patch: pytest.MonkeyPatch) -> None:
    honest = hoist_weights._fold

    def wrong(operation: mlir.Operation, prepare: Function, exported: dict[str, mlir.Value]) -> None:
        operands = list(operation.operands)
        if len({o.type for o in operands}) == 1:
            for i, operand in enumerate(reversed(operands)):
                operation.operands[i] = operand
        honest(operation, prepare, exported)

    patch.setattr(hoist_weights, "_fold", wrong)


@bug("donate")
def late_readers_are_overlooked(patch: pytest.MonkeyPatch) -> None:
    honest = donate.refusal

    def wrong(operation: mlir.Operation, donated: set[mlir.Value], function: Function) -> str | None:
        reason = honest(operation, donated, function)
        return None if reason is not None and "reads the cache" in reason else reason

    patch.setattr(donate, "refusal", wrong)


@bug("donate")
def any_input_may_be_overwritten(patch: pytest.MonkeyPatch) -> None:
    honest = donate.refusal

    def wrong(operation: mlir.Operation, donated: set[mlir.Value], function: Function) -> str | None:
        return honest(operation, set(function.inputs.values()), function)

    patch.setattr(donate, "refusal", wrong)


@bug("donate")
def the_mark_of_donation_is_lost(patch: pytest.MonkeyPatch) -> None:
    def wrong(operation: mlir.Operation, donated: set[mlir.Value], function: Function) -> str | None:
        plain = [mlir.DictAttr.get({"wl.name": mlir.StringAttr.get(n)}) for n in function.input_names]
        function.operation.attributes["arg_attrs"] = mlir.ArrayAttr.get(plain)
        return "given up"

    patch.setattr(donate, "refusal", wrong)


@bug("fuse_heroes_eager")
def a_group_may_complete_too_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fuse_heroes, "completes_late", lambda ops: None)


@bug("fuse_heroes_eager")
def groups_that_differ_in_attributes_are_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(outline, "_text", lambda f: str(f.operation.attributes["function_type"]) + str(len(f.ops)))


@bug("fuse_loops")
def what_others_read_is_inlined_too(patch: pytest.MonkeyPatch) -> None:
    def wrong(source: mlir.Operation, consumer: mlir.Operation, group: list[mlir.Operation]) -> str | None:
        elementwise = is_elementwise(source) or is_op(source, *fuse_loops.CONSTANTS)
        return None if elementwise else "it is not elementwise"

    patch.setattr(fuse_loops, "_refusal", wrong)


@bug("fuse_loops")
def constants_that_are_read_are_erased(patch: pytest.MonkeyPatch) -> None:
    def wrong(source: mlir.Operation, consumer: mlir.Operation) -> mlir.Operation:
        with before(consumer):
            type_ = type_of(source.results[0])
            made = full(shape=type_.shape, value=0.0, dtype=type_.dtype.value).owner.operation
        for i, operand in enumerate(consumer.operands):
            if operand == source.results[0]:
                consumer.operands[i] = made.results[0]
        return made

    patch.setattr(fuse_loops, "_own_copy", wrong)


@bug("defer_norms")
def the_gain_scales_rows_of_the_weight(patch: pytest.MonkeyPatch) -> None:
    def wrong(row: mlir.Value, like: mlir.Value) -> mlir.Value:
        square = type_of(like).shape[0] == type_of(like).shape[1]
        return along_rows(row, like) if square else along_columns(row, like)

    patch.setattr(defer_norms, "along_columns", wrong)


@bug("defer_norms")
def a_deferred_norm_forgets_its_eps(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(defer_norms, "inverse_rms", lambda x, eps: inverse_rms(x, 0.0))


@bug("defer_norms")
def weights_are_rounded_where_activations_are_not(patch: pytest.MonkeyPatch) -> None:
    honest = defer_norms.illegal

    def wrong(operation: mlir.Operation) -> str | None:
        reason = honest(operation)
        return None if reason is not None and "rounded once more" in reason else reason

    patch.setattr(defer_norms, "illegal", wrong)


@bug("fuse_loops")
def twins_may_complete_too_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fuse_loops, "completes_late", lambda ops: None)


@bug("fuse_loops")
def twins_may_differ_in_shape(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fuse_loops, "type_of", lambda value: TensorType((), DType.F32))


@bug("keep_sums_wide")
def a_product_is_not_added_to_the_wide_sum(patch: pytest.MonkeyPatch) -> None:
    honest = keep_sums_wide._widened

    def wrong(value: mlir.Value, wide: dict[mlir.Value, mlir.Value]) -> mlir.Value:
        product = None if value in wide else producer(value, linear)
        return honest(value, wide) if product is None else as_dtype(product.operands[0], DType.F32)

    patch.setattr(keep_sums_wide, "_widened", wrong)


@bug("keep_sums_wide")
def gathered_rows_are_not_the_ones_asked_for(patch: pytest.MonkeyPatch) -> None:
    def wrong(rows: mlir.Value, ids: mlir.Value) -> mlir.Value:
        return neg(gather(rows, ids))

    patch.setattr(keep_sums_wide, "gather", wrong)
    patch.setattr(keep_sums_wide, "is_op", lambda op, *ops: is_op(op, *(gather if o is wrong else o for o in ops)))


@bug("quantize_activations")
def all_activations_become_integers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(quantize_activations, "FP8", Numbers(DType.I8, 0))


@bug("quantize_activations")
def results_are_rounded_to_bf16(patch: pytest.MonkeyPatch) -> None:
    def wrong(operation: mlir.Operation, values: Sequence[mlir.Value]) -> None:
        replace(operation, [as_dtype(as_dtype(value, DType.BF16), type_of(value).dtype) for value in values])

    patch.setattr(quantize_activations, "replace", wrong)


@bug("order_inputs")
def columns_are_placed_instead_of_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(order_inputs, "take_columns", place_columns)


@bug("order_inputs")
def a_gain_keeps_its_order(patch: pytest.MonkeyPatch) -> None:
    def wrong(value: mlir.Value, order: mlir.Value) -> mlir.Value:
        return value if type_of(value).rank == 1 else gather(value, order)

    patch.setattr(order_inputs, "gather", wrong)


@bug("order_inputs")
def scales_of_rows_keep_their_order(patch: pytest.MonkeyPatch) -> None:
    def wrong(value: mlir.Value, order: mlir.Value) -> mlir.Value:
        return gather(value, order) if type_of(value).dtype in (DType.I4, DType.I8) else value

    patch.setattr(order_inputs, "gather", wrong)


@bug("order_inputs")
def what_others_read_is_ordered_too(patch: pytest.MonkeyPatch) -> None:
    honest = order_inputs._ordered

    def wrong(value: mlir.Value, order: mlir.Value) -> mlir.Value:
        made = honest(value, order)
        value.replace_all_uses_with(made)
        return made

    patch.setattr(order_inputs, "users", lambda value: users(value)[:1])
    patch.setattr(order_inputs, "_ordered", wrong)


@bug("order_inputs")
def both_halves_are_the_first(patch: pytest.MonkeyPatch) -> None:
    def wrong(value: mlir.Value, *, axis: int, start: int, stop: int) -> mlir.Value:
        return slice_axis(value, axis=axis, start=0, stop=stop - start)

    patch.setattr(order_inputs, "partial", lambda spec, **attrs: lambda value: wrong(value, **attrs))


@bug("decompose")
def a_window_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    def wrong(op: Any, values: Any, attrs: Any) -> Any:
        return expand(op, values, {**attrs, "window": 0} if "window" in attrs else attrs)

    patch.setattr(decompose, "expand", wrong)


@bug("decompose")
def results_are_not_rounded(patch: pytest.MonkeyPatch) -> None:
    def wrong(operation: mlir.Operation) -> bool:
        op = op_of(operation)
        if op is None or op.decompose is None:
            return False
        with before(operation):
            made = op.decompose(*operation.operands, **op.attrs_of(operation))
        replace(operation, list(made) if isinstance(made, tuple) else [made])
        return True

    patch.setattr(decompose, "_expand", wrong)


@bug("inline_groups")
def arguments_are_bound_in_reverse(patch: pytest.MonkeyPatch) -> None:
    honest = inline_groups._inline

    def wrong(call: mlir.Operation, group: Function) -> None:
        operands = list(call.operands)
        if len({o.type for o in operands}) == 1:
            for i, operand in enumerate(reversed(operands)):
                call.operands[i] = operand
        honest(call, group)

    patch.setattr(inline_groups, "_inline", wrong)
