"""Chains of ops around products with chosen experts, as fusion proposes and kernels take them.

product   expert_linear, [+ bias of the expert], [gate: its halves as gate and up of one activation]
mixture   product with a gate -> product of its result -> [cast] -> combine_experts -> [+ residual]
"""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.ir.op import Op
from warploom.ir.ops.activation import clamped_swiglu, swiglu
from warploom.ir.ops.elementwise import add, cast
from warploom.ir.ops.experts import expert_linear, quantized_expert_linear
from warploom.ir.ops.mxfp4 import mxfp4_expert_linear
from warploom.ir.ops.routing import combine_experts
from warploom.ir.ops.shape import gather, slice_axis
from warploom.ir.rewrite import is_op, producer, users
from warploom.ir.types import type_of

PRODUCTS = (expert_linear, quantized_expert_linear, mxfp4_expert_linear)


@dataclass(frozen=True)
class Product:
    """A product with experts and what follows it.

    Attributes:
        hero: the product itself.
        ops: all of them, the hero first.
        bias: [E, n], or None.
        gate: the activation, or None.
        result: of the last.
    """

    hero: mlir.Operation
    ops: tuple[mlir.Operation, ...]
    bias: mlir.Value | None
    gate: mlir.Operation | None
    result: mlir.Value

    @property
    def x(self) -> mlir.Value:
        """[T, J or 1, K]."""
        return self.hero.operands[0]

    @property
    def experts(self) -> mlir.Value:
        """[T, J]."""
        return self.hero.operands[1]

    @property
    def weight(self) -> list[mlir.Value]:
        """The matrices, and scales and offsets if there are any."""
        return list(self.hero.operands)[2:]


@dataclass(frozen=True)
class Mixture:
    """Two products and the weighted sum.

    Attributes:
        shares: f32 [T, J].
        residual: what is added, or None.
    """

    first: Product
    second: Product
    ops: tuple[mlir.Operation, ...]
    shares: mlir.Value
    residual: mlir.Value | None
    result: mlir.Value


def find_product(hero: mlir.Operation) -> Product:
    """The product of an `expert_linear`, with what of its bias and gate nobody else reads."""
    ops, bias, value = [hero], None, hero.results[0]
    found = _bias(hero)
    if found is not None:
        bias, more = found
        ops += more
        value = more[-1].results[0]
    gate = _gate(value)
    if gate is not None:
        ops += [*users(value), gate]
        value = gate.results[0]
    return Product(hero, tuple(ops), bias, gate, value)


def find_mixture(second: mlir.Operation) -> Mixture | str:
    """The mixture whose second product a hero is, or why it is none."""
    source = producer(second.operands[0], swiglu, clamped_swiglu)
    half = None if source is None else producer(source.operands[0], slice_axis)
    if half is None:
        return "its rows are not those of a gate"
    hero = producer(half.operands[0], *PRODUCTS)
    if hero is None and (sum_ := producer(half.operands[0], add)) is not None:
        hero = producer(sum_.operands[0], *PRODUCTS)
    if hero is None:
        return "its rows are not those of experts"
    first, last = find_product(hero), find_product(second)
    if first.gate != source or last.gate is not None or first.experts != last.experts:
        return "the products do not belong together"
    if users(first.result) != [second]:
        return "others read what the first products gave"
    ops, value = [*first.ops, *last.ops], last.result
    if (widening := _only_reader(value, cast)) is not None:
        ops, value = [*ops, widening], widening.results[0]
    sum_ = _only_reader(value, combine_experts)
    if sum_ is None:
        return "its result is not summed"
    ops, value, residual = [*ops, sum_], sum_.results[0], None
    addition = _only_reader(value, add)
    if addition is not None:
        residual = addition.operands[1 - list(addition.operands).index(value)]
        ops, value = [*ops, addition], addition.results[0]
    return Mixture(first, last, tuple(ops), sum_.operands[1], residual, value)


def _bias(hero: mlir.Operation) -> tuple[mlir.Value, list[mlir.Operation]] | None:
    """The bias that is added for the same experts, and the ops that do: gather, maybe a cast, add."""
    addition = _only_reader(hero.results[0], add)
    if addition is None or addition.operands[0] != hero.results[0]:
        return None
    value, ops = addition.operands[1], [addition]
    for spec in (cast, gather):
        source = producer(value, spec)
        if source is not None and len(users(value)) == 1:
            ops, value = [source, *ops], source.operands[0]
    if not is_op(ops[0], gather) or ops[0].operands[1] != hero.operands[1] or type_of(value).rank != 2:
        return None
    return value, ops


def _gate(value: mlir.Value) -> mlir.Operation | None:
    """The activation whose gate is the first half of a value's last axis, up the second, if nobody else reads it."""
    halves, axis = users(value), type_of(value).rank - 1
    n = type_of(value).shape[axis]
    if not isinstance(n, int) or n % 2 or len(halves) != 2 or not all(is_op(h, slice_axis) for h in halves):
        return None
    by_start = {int(slice_axis.attrs_of(h)["start"]): h for h in halves}
    wanted = [{"axis": axis, "start": start, "stop": start + n // 2} for start in (0, n // 2)]
    if sorted(by_start) != [0, n // 2] or [slice_axis.attrs_of(by_start[s]) for s in sorted(by_start)] != wanted:
        return None
    gate = _only_reader(by_start[0].results[0], swiglu, clamped_swiglu)
    read = [by_start[s].results[0] for s in sorted(by_start)]
    if gate is None or list(gate.operands) != read or users(read[1]) != [gate]:
        return None
    return gate


def _only_reader(value: mlir.Value, *specs: Op) -> mlir.Operation | None:
    readers = users(value)
    return readers[0] if len(readers) == 1 and is_op(readers[0], *specs) else None
