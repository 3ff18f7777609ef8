"""Any element of any value of a program, computed where it is needed: producers are inlined by their index maps.

Each shape op maps the coordinates of a result element to those of operand elements (XLA's elemental IR emitter works
this way). Within one body an op is computed once for the same coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from mlir import ir
from mlir.dialects import scf

from warploom.codegen.cpu.loops.arithmetic import (
    elementwise,
    number,
    read,
    register_element,
    threefry,
)
from warploom.codegen.cpu.loops.coords import Coord, Extents, Irregular, at, zero
from warploom.codegen.cpu.memory import Ptr
from warploom.codegen.cpu.values import LANES, Value, broadcast, convert_int, iota, maximum, minimum, mlir_type
from warploom.codegen.loop_program import INPUT, Array, Node, Program, family

Coords = tuple[Coord, ...]


@dataclass(frozen=True)
class Elements:
    """Computes elements of a program's values inside the kernel being emitted.

    `inputs` point to the program's inputs; `table` places an array among the kernel's constants.
    """

    program: Program
    extents: Extents
    inputs: Sequence[Ptr]
    table: Callable[[np.ndarray], Ptr]

    def at(self, position: int, coords: Coords) -> Value:
        """The element of node `position` at `coords`; a vector where they have lanes (or a scalar if all are equal)."""
        (value,) = self.all_at((position,), coords)
        return value

    def all_at(self, positions: Sequence[int], coords: Coords) -> list[Value]:
        """Elements of several nodes at `coords`; what they have in common is computed once."""
        body = _Body(self)
        return [body.value(position, coords) for position in positions]


@dataclass
class _Body:
    """One straight run of code: values found here may be used again."""

    elements: Elements
    known: dict[tuple[int, Coords], Value] = field(default_factory=dict)

    @property
    def extents(self) -> Extents:
        return self.elements.extents

    def value(self, position: int, coords: Coords) -> Value:
        key = (position, coords)
        if key not in self.known:
            self.known[key] = self._compute(position, coords)
        return self.known[key]

    def _compute(self, position: int, coords: Coords) -> Value:
        node = self.elements.program.nodes[position]
        if node.op == INPUT:
            return self._load(self.elements.inputs[position], node, coords)
        if family(node.op) == "elementwise":
            operands = [self.value(operand, coords) for operand in node.operands]
            return elementwise(node.op, operands, node.attrs, node.type.dtype)
        rule: Callable[[Node, Coords], Value] = getattr(self, node.op)  # the methods below have the names of the ops
        return rule(node, coords)

    def _load(self, pointer: Ptr, node: Node, coords: Coords) -> Value:
        offset = self.extents.linear(coords, node.type.shape)
        if offset.stride not in (0, 1):
            raise Irregular
        return read(pointer, offset.base, LANES if offset.stride else 0, node.type.dtype)

    def _branch(self, condition: Value, branches: Sequence[Callable[[], Value]], lanes: int, node: Node) -> Value:
        """The value of the first branch where the scalar condition holds, else of the second."""
        element = register_element(node.type.dtype)
        op = scf.IfOp(condition.ssa, [mlir_type(element, lanes)], has_else=True)
        for region, branch in zip(op.regions, branches, strict=True):
            outside = self.known
            self.known = dict(outside)
            with ir.InsertionPoint(region.blocks[0]):
                scf.YieldOp([broadcast(branch(), lanes).ssa])
            self.known = outside
        return Value(op.results_[0], element, lanes)

    def reshape(self, node: Node, coords: Coords) -> Value:
        have, want = node.type.shape, self._operand(node).type.shape
        return self.value(node.operands[0], tuple(self.extents.reshaped(coords, have, want)))

    def transpose(self, node: Node, coords: Coords) -> Value:
        order = node.attrs["permutation"]
        return self.value(node.operands[0], tuple(coords[order.index(i)] for i in range(len(order))))

    def broadcast(self, node: Node, coords: Coords) -> Value:
        sizes = self._operand(node).type.shape
        mapped = zip(sizes, node.attrs["dims"], strict=True)
        return self.value(node.operands[0], tuple(zero() if size == 1 else coords[d] for size, d in mapped))

    def slice(self, node: Node, coords: Coords) -> Value:
        axis, start = node.attrs["axis"], node.attrs["start"]
        return self.value(node.operands[0], _replaced(coords, axis, coords[axis].shifted(start)))

    def concat(self, node: Node, coords: Coords) -> Value:
        axis = node.attrs["axis"]
        return self._part(node, coords, axis, list(node.operands))

    def _part(self, node: Node, coords: Coords, axis: int, operands: list[int]) -> Value:
        """The element of the concatenation of `operands` at `coords`."""
        first, *others = operands
        if not others:
            return self.value(first, coords)
        size = self.elements.program.nodes[first].type.shape[axis]
        here = coords[axis]
        if not here.within(size):
            raise Irregular
        behind = _replaced(coords, axis, self.extents.shifted(here, size * -1))
        branches = (lambda: self.value(first, coords), lambda: self._part(node, behind, axis, others))
        return self._branch(here.base < self.extents.value(size), branches, _lanes(coords), node)

    def pad(self, node: Node, coords: Coords) -> Value:
        axis, low = node.attrs["axis"], node.attrs["low"]
        size, here = self._operand(node).type.shape[axis], coords[axis]
        if not (here.within(low) and here.within(size + low)):
            raise Irregular
        inside = (here.base >= low) & (here.base < self.extents.value(size + low))
        inner = _replaced(coords, axis, here.shifted(-low))
        branches = (
            lambda: self.value(node.operands[0], inner),
            lambda: number(node.attrs["value"], node.type.dtype),
        )
        return self._branch(inside, branches, _lanes(coords), node)

    def gather(self, node: Node, coords: Coords) -> Value:
        x, indices = node.operands
        rank = self.elements.program.nodes[indices].type.rank
        row = self.value(indices, coords[:rank])
        if row.lanes:
            raise Irregular
        last = self.extents.value(self._operand(node).type.shape[0] - 1)
        clamped = minimum(maximum(convert_int(row, "i64"), 0), last)
        return self.value(x, (at(clamped), *coords[rank:]))

    def iota(self, node: Node, coords: Coords) -> Value:
        return position_of(coords[node.attrs["axis"]])

    def full(self, node: Node, coords: Coords) -> Value:
        return number(node.attrs["value"], node.type.dtype)

    def constant(self, node: Node, coords: Coords) -> Value:
        array = node.attrs["value"]
        assert isinstance(array, Array)
        return self._load(self.elements.table(array.numpy), node, coords)

    def random_bits(self, node: Node, coords: Coords) -> Value:
        keys, counters = node.operands
        row, column = coords
        key = (self.value(keys, (row, at(0))), self.value(keys, (row, at(1))))
        return threefry(key, (self.value(counters, (row,)), position_of(column)))

    def _operand(self, node: Node) -> Node:
        return self.elements.program.nodes[node.operands[0]]


def position_of(coord: Coord) -> Value:
    """A coordinate as i32, with lanes if it has a stride."""
    first = convert_int(coord.base, "i32")
    if coord.is_uniform:
        return first
    if not isinstance(coord.stride, int):
        raise Irregular
    return iota(LANES) * coord.stride + first


def _replaced(coords: Coords, axis: int, coord: Coord) -> Coords:
    return (*coords[:axis], coord, *coords[axis + 1 :])


def _lanes(coords: Coords) -> int:
    return 0 if all(c.is_uniform for c in coords) else LANES
