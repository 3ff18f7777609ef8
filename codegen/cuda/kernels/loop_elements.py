"""Any element of any value of a program as lines of Triton: producers are inlined by their index maps.

Each shape op maps the coordinates of a result element to those of operand elements. A value lives on the axes of the
block that it depends on; Triton broadcasts where values meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from warploom.codegen.cuda.kernels.loop_arithmetic import elementwise, number, scalar
from warploom.codegen.loop_program import INPUT, Array, Node, Program, family
from warploom.ir.dims import DimLike, Shape, product

MAX_TABLE = 1024  # elements of a constant, which becomes a chain of selects


@dataclass(frozen=True, slots=True)
class Term:
    """A coordinate, condition or value: its text, and the axes of the block that it varies along."""

    text: str
    axes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Place:
    """Where an element is: coordinates, and conditions without which they may lie outside of operands."""

    coords: tuple[Term, ...]
    conditions: tuple[Term, ...] = ()

    def moved(self, coords: Sequence[Term]) -> Place:
        """Other coordinates under the same conditions."""
        return replace(self, coords=tuple(coords))

    def along(self, axis: int, coord: Term, *conditions: Term) -> Place:
        """Another coordinate of one axis, under further conditions."""
        coords = (*self.coords[:axis], coord, *self.coords[axis + 1 :])
        return Place(coords, (*self.conditions, *conditions))


ZERO = Term("0")


@dataclass
class Elements:
    """Lines that compute values of a program.

    Attributes:
        wide: whether positions need 64 bits.
        inside: by axis, the condition under which it is within the result.
        lines: what has been written; `known` are the terms that they define.
        tables: constants that the lines look up, by the name of the function that does.
    """

    program: Program
    wide: bool
    inside: dict[str, str]
    lines: list[str] = field(default_factory=list)
    known: dict[tuple[int, Place], Term] = field(default_factory=dict)
    tables: dict[str, Array] = field(default_factory=dict)

    def value(self, position: int, place: Place) -> Term:
        """The element of node `position` at a place."""
        key = position, place
        if key not in self.known:
            self.known[key] = self._compute(position, place)
        return self.known[key]

    def define(self, name: str, text: str, *sources: Term) -> Term:
        """A line that gives an expression of some terms a name of its own."""
        name = f"{name}{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        return Term(name, frozenset().union(*(source.axes for source in sources)))

    def linear(self, coords: Sequence[Term], shape: Shape) -> Term:
        """Row-major position of an element."""
        parts, axes, step = [], frozenset[str](), product(())
        for coord, size in zip(reversed(coords), reversed(shape), strict=True):
            if size != 1 and coord != ZERO:
                parts.append(coord.text if step == 1 else f"{coord.text} * {_factor(step)}")
                axes |= coord.axes
            step = step * size
        return Term(" + ".join(reversed(parts)) or "0", axes)

    def delinear(self, position: Term, shape: Shape) -> list[Term]:
        """The coordinates of a row-major position."""
        coords: list[Term] = []
        for size in reversed(shape[1:]):
            if size == 1 or position == ZERO:
                coords.append(ZERO)
                continue
            by = _factor(size)
            coords.append(self.define("i", f"{position.text} % {by}", position))
            position = self.define("i", f"{position.text} // {by}", position)
        return [position, *reversed(coords)] if shape else []

    def _compute(self, position: int, place: Place) -> Term:
        node = self.program.nodes[position]
        if node.op == INPUT:
            return self._load(position, node, place)
        if family(node.op) == "elementwise":
            operands = [self.value(operand, place) for operand in node.operands]
            source = self.program.nodes[node.operands[-1]].type.dtype
            text = elementwise(node.op, [o.text for o in operands], source, node.attrs, node.type.dtype)
            return self.define(node.op + "_", text, *operands)
        rule: Callable[[Node, Place], Term] = getattr(
            self, f"_{node.op}"
        )  # the methods below have the names of the ops
        return rule(node, place)

    def _load(self, position: int, node: Node, place: Place) -> Term:
        offset = self.linear(place.coords, node.type.shape)
        needed = [self.inside[axis] for axis in self.inside if axis in offset.axes]
        needed += [c.text for c in place.conditions if c.axes <= offset.axes]
        mask = f", mask={' & '.join(dict.fromkeys(needed))}, other=0" if needed else ""
        text = f"tl.load(in{position} + {offset.text}{mask})"
        return self.define("x", f"{text}.to(tl.float32)" if node.type.dtype.is_float else text, offset)

    def _reshape(self, node: Node, place: Place) -> Term:
        coords: list[Term] = []
        have, want = node.type.shape, self._operand(node).type.shape
        for mine, theirs in _segments(have, want):
            if len(mine) == len(theirs) == 1:
                coords.append(place.coords[mine.start])
                continue
            position = self.linear([place.coords[i] for i in mine], tuple(have[i] for i in mine))
            coords += self.delinear(self._named(position), tuple(want[i] for i in theirs))
        return self.value(node.operands[0], place.moved(coords))

    def _transpose(self, node: Node, place: Place) -> Term:
        order = node.attrs["permutation"]
        return self.value(node.operands[0], place.moved([place.coords[order.index(i)] for i in range(len(order))]))

    def _broadcast(self, node: Node, place: Place) -> Term:
        mapped = zip(self._operand(node).type.shape, node.attrs["dims"], strict=True)
        return self.value(node.operands[0], place.moved([ZERO if size == 1 else place.coords[d] for size, d in mapped]))

    def _slice(self, node: Node, place: Place) -> Term:
        axis, start = node.attrs["axis"], node.attrs["start"]
        return self.value(node.operands[0], place.along(axis, self._shifted(place.coords[axis], start)))

    def _concat(self, node: Node, place: Place) -> Term:
        axis = node.attrs["axis"]
        here, size = place.coords[axis], self._operand(node).type.shape[axis]
        first = self.define("first", f"{here.text} < {size}", here)
        second = self.define("second", f"{here.text} >= {size}", here)
        behind = self._shifted(here, size * -1)
        x = self.value(node.operands[0], place.along(axis, here, first))
        y = self.value(node.operands[1], place.along(axis, behind, second))
        return self.define("concat_", f"tl.where({first.text}, {x.text}, {y.text})", first, x, y)

    def _pad(self, node: Node, place: Place) -> Term:
        axis, low = node.attrs["axis"], node.attrs["low"]
        here, size = place.coords[axis], self._operand(node).type.shape[axis]
        inner = self.define("within", f"({here.text} >= {low}) & ({here.text} < {size + low})", here)
        x = self.value(node.operands[0], place.along(axis, self._shifted(here, -low), inner))
        filler = number(node.attrs["value"], node.type.dtype)
        return self.define("pad_", f"tl.where({inner.text}, {x.text}, {filler})", inner, x)

    def _gather(self, node: Node, place: Place) -> Term:
        x, indices = node.operands
        rank = self.program.nodes[indices].type.rank
        row = self.value(indices, place.moved(place.coords[:rank]))
        last = self._operand(node).type.shape[0] - 1
        widening = ".to(tl.int64)" if self.wide else ""
        clamped = self.define("row", f"tl.minimum(tl.maximum({row.text}, 0), {last}){widening}", row)
        return self.value(x, place.moved([clamped, *place.coords[rank:]]))

    def _iota(self, node: Node, place: Place) -> Term:
        return self._index(place.coords[node.attrs["axis"]])

    def _full(self, node: Node, place: Place) -> Term:
        return self.define("full_", scalar(node.attrs["value"], node.type.dtype))

    def _constant(self, node: Node, place: Place) -> Term:
        array = node.attrs["value"]
        assert isinstance(array, Array)
        name = next((n for n, known in self.tables.items() if known == array), f"table{len(self.tables)}")
        self.tables[name] = array
        offset = self.linear(place.coords, node.type.shape)
        return self.define("constant_", f"{name}({offset.text})", offset)

    def _random_bits(self, node: Node, place: Place) -> Term:
        keys, counters = node.operands
        row, column = place.coords
        key = (self.value(keys, place.moved([row, word])) for word in (ZERO, Term("1")))
        words = [*key, self.value(counters, place.moved([row])), self._index(column)]
        text = ", ".join(f"{word.text}.to(tl.uint32)" for word in words)
        return self.define("bits", f"threefry({text}).to(tl.int32)", *words)

    def _operand(self, node: Node) -> Node:
        return self.program.nodes[node.operands[0]]

    def _shifted(self, coord: Term, by: DimLike) -> Term:
        if by == 0:
            return coord
        return self.define("i", f"{coord.text} + ({by})", coord)

    def _index(self, coord: Term) -> Term:
        """A coordinate as a value."""
        text = f"{coord.text}.to(tl.int32)" if coord.axes else f"tl.full((), {coord.text}, tl.int32)"
        return self.define("iota_", text, coord)

    def _named(self, position: Term) -> Term:
        return position if position.text.isalnum() else self.define("i", position.text, position)


def _factor(size: DimLike) -> str:
    return str(size) if isinstance(size, int) else f"({size})"


def _segments(have: Shape, want: Shape) -> list[tuple[range, range]]:
    """The smallest runs of dimensions with equal products: a reshape acts on each by itself."""
    found, i, j = [], 0, 0
    while i < len(have) or j < len(want):
        lengths = [(m, n) for m in range(len(have) - i + 1) for n in range(len(want) - j + 1) if m + n]
        m, n = min((k for k in lengths if product(have[i : i + k[0]]) == product(want[j : j + k[1]])), key=sum)
        found.append((range(i, i + m), range(j, j + n)))
        i, j = i + m, j + n
    return found
