"""Reductions and contractions: many elements folded into one, in an order that depends on nothing but their number.

Along scalars the order is that of the index. Along lanes there are 16 partial results, partial i taking elements
i, i + 16, ...; they are merged by halves, then the elements behind the last whole vector follow in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from warploom.codegen.cpu.control import carry
from warploom.codegen.cpu.loops.arithmetic import highest, larger, lowest, number, smaller
from warploom.codegen.cpu.loops.coords import Coord, at, lanes_from
from warploom.codegen.cpu.loops.element import Coords, Elements, position_of
from warploom.codegen.cpu.values import LANES, Value, broadcast, constant, fma, index, lane, select, shuffle
from warploom.codegen.loop_program import Node
from warploom.ir.dims import Shape, product
from warploom.ir.types import DType

State = list[Value]


@dataclass(frozen=True)
class Fold:
    """`initial` state, `step(state, terms)` for the terms of one more position, `merge` of two states."""

    initial: State
    step: Callable[[State, State], State]
    merge: Callable[[State, State], State]


def fold(elements: Elements, coords: Coords, *, lanes: int, along: bool) -> Value:
    """The root of the program, a fold, at `coords`, which have `lanes`; `along`: vectors along the folded axis."""
    program = elements.program
    shape, node = program.folded, program.root
    rule = _rule(node, program.nodes[node.operands[0]].type.dtype)
    size = index(elements.extents.value(product(shape)))
    state, done = [broadcast(v, lanes) for v in rule.initial], index(0)
    if along:
        state = [broadcast(v, LANES) for v in state]
        done = size // LANES * LANES
        state = carry(0, done, state, lambda i, *s: rule.step([*s], _terms(elements, coords, lanes_from(i))), LANES)
        state = _merge_lanes(rule, state)
    state = carry(done, size, state, lambda i, *s: rule.step([*s], _terms(elements, coords, at(i))))
    return state[-1]


def _merge_lanes(rule: Fold, state: State) -> State:
    half = LANES
    while half > 1:
        half //= 2
        low, high = ([shuffle(v, v, range(start, start + half)) for v in state] for start in (0, half))
        state = rule.merge(low, high)
    return [lane(v, 0) for v in state]


def _rule(node: Node, dtype: DType) -> Fold:
    """The fold of an op whose operand has the dtype; the result is the last part of its state."""
    match node.op:
        case "reduce_sum":
            return _simple(number(0, dtype), lambda x, y: x + y)
        case "reduce_max":
            return _simple(lowest(dtype), larger)
        case "reduce_min":
            return _simple(highest(dtype), smaller)
        case "argmax":
            return Fold([lowest(dtype), constant(0, "i32")], _first_largest, _first_largest)
    return Fold(
        [constant(0.0, "f32")],
        lambda state, terms: [fma(terms[0], terms[1], state[0])],
        lambda x, y: [x[0] + y[0]],
    )


def _simple(initial: Value, combine: Callable[[Value, Value], Value]) -> Fold:
    def both(x: State, y: State) -> State:
        return [combine(x[0], y[0])]

    return Fold([initial], both, both)


def _first_largest(x: State, y: State) -> State:
    """(value, index) pairs: the larger value, then the lower index."""
    better = (y[0] > x[0]) | (y[0].eq(x[0]) & (y[1] < x[1]))
    return [select(better, new, old) for new, old in zip(y, x, strict=True)]


def _terms(elements: Elements, coords: Coords, place: Coord) -> State:
    """What the fold takes in at the (linear) position `place` of the folded dimensions."""
    node = elements.program.root
    x = node.operands[0]
    if node.op == "dot_general":
        return _factors(elements, coords, place)
    axis = node.attrs.get("axis", len(coords))
    term = elements.at(x, (*coords[:axis], place, *coords[axis:]))
    return [term, position_of(place)] if node.op == "argmax" else [term]


def _factors(elements: Elements, coords: Coords, place: Coord) -> State:
    node, nodes = elements.program.root, elements.program.nodes
    contracted = elements.extents.delinear(place, elements.program.folded)
    batch = len(node.attrs["x_batch"])
    free = iter(coords[batch:])  # of x, then of y

    def coords_of(side: str, shape: Shape) -> Coords:
        fixed = dict(zip(node.attrs[f"{side}_batch"], coords[:batch], strict=True))
        fixed |= dict(zip(node.attrs[f"{side}_contract"], contracted, strict=True))
        return tuple(fixed[i] if i in fixed else next(free) for i in range(len(shape)))

    sides = zip(("x", "y"), node.operands, strict=True)
    return [elements.at(operand, coords_of(side, nodes[operand].type.shape)) for side, operand in sides]
