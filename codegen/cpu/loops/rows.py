"""Roots whose elements depend on one another: running sums, sorted rows, the k largest, scattered rows."""

from __future__ import annotations

from warploom.codegen.cpu.control import carry, carry_while, loop, when
from warploom.codegen.cpu.emitter import Kernel
from warploom.codegen.cpu.loops.arithmetic import number, write
from warploom.codegen.cpu.loops.coords import Coord, at
from warploom.codegen.cpu.loops.element import Coords, Elements
from warploom.codegen.cpu.loops.maps import Mode
from warploom.codegen.cpu.loops.schedule import Schedule, for_columns
from warploom.codegen.cpu.memory import Ptr
from warploom.codegen.cpu.values import LANES, Value, convert_int, index, maximum, minimum, select

WORD = 4  # bytes of the elements that `top_k` orders, and of indices


def emit_cumsum(k: Kernel, elements: Elements, schedule: Schedule, out: Ptr) -> None:
    """Each row from left to right; narrow floats are rounded where they are stored, the sum is not."""
    node, extents = elements.program.root, elements.extents
    (x,), size = node.operands, index(elements.extents.value(schedule.columns))
    start = number(0, node.type.dtype)
    with schedule.spans(k, extents) as span, loop(span.first_row, span.last_row) as row:

        def step(i: Value, total: Value) -> list[Value]:
            total = total + elements.at(x, schedule.coords(row, at(i), node.type.rank, extents))
            write(out, row * size + i, total, 0)
            return [total]

        carry(0, size, [start], step)


def emit_sort(k: Kernel, elements: Elements, schedule: Schedule, out: Ptr, mode: Mode) -> None:
    """Each row is written out and then sorted in place, descending, by heapsort (Williams 1964): no scratch memory."""
    node, extents = elements.program.root, elements.extents
    (x,), size = node.operands, index(elements.extents.value(schedule.columns))
    with schedule.spans(k, extents) as span, loop(span.first_row, span.last_row) as row:
        target = out.at(row * size)

        def copy(column: Coord) -> None:
            value = elements.at(x, schedule.coords(row, column, node.type.rank, extents))
            write(target, column.base, value, 0 if column.is_uniform else LANES)

        for_columns(index(0), size, schedule.columns, mode.columns, copy)
        _heapsort(target, size)


def _heapsort(x: Ptr, size: Value) -> None:
    """First every subtree becomes a heap with its smallest element on top, then tops are moved to the end."""
    parents = size // 2
    with loop(0, parents + size - 1) as step:
        building = step < parents
        end = select(building, size, size - 1 - (step - parents))
        with when(~building):
            top, last = x[0], x[end]
            x[0] = last
            x[end] = top
        _sift_down(x, select(building, parents - 1 - step, 0), end)


def _sift_down(x: Ptr, root: Value, end: Value) -> None:
    """Move the element at `root` down until no child before `end` is smaller."""
    sinking = x[root]

    def smaller_child(hole: Value) -> Value:
        left = hole * 2 + 1
        right = minimum(left + 1, end - 1)
        return select((right > left) & (x[right] < x[minimum(left, end - 1)]), right, left)

    def goes_on(_: Value, child: Value) -> Value:
        return (child < end) & (x[minimum(child, end - 1)] < sinking)

    def move(hole: Value, child: Value) -> list[Value]:
        x[hole] = x[child]
        return [child, smaller_child(child)]

    hole, _ = carry_while([root, smaller_child(root)], goes_on, move)
    x[hole] = sinking


def emit_top_k(k: Kernel, elements: Elements, schedule: Schedule, outs: dict[int, Ptr]) -> None:
    """One pass over each row with the k best so far, in order, in scratch memory: [k] values, [k] indices."""
    program, extents = elements.program, elements.extents
    node, rank = program.root, program.root.type.rank
    (x,), count = node.operands, node.attrs["k"]
    values = k.scratch.cast(node.type.dtype.value)
    indices = k.scratch.at(count * WORD).cast("i32")
    with schedule.spans(k, extents) as span, loop(span.first_row, span.last_row) as row:
        with loop(0, extents.value(schedule.columns)) as i:
            value = elements.at(x, schedule.coords(row, at(i), rank, extents))
            with when((i < count) | (value > values[count - 1])):
                _insert(values, indices, value, i, count)
        for result, source in ((0, values), (1, indices)):
            if result in outs:
                with loop(0, count) as i:
                    outs[result][row * count + i] = source[i]


def _insert(values: Ptr, indices: Ptr, value: Value, position: Value, count: int) -> None:
    """Make room behind all that are not smaller, so that the lowest index wins ties; the last of `count` drops out."""

    def goes_on(hole: Value) -> Value:
        return (hole > 0) & (values[maximum(hole - 1, 0)] < value)

    def move(hole: Value) -> list[Value]:
        for table in (values, indices):
            table[hole] = table[hole - 1]
        return [hole - 1]

    (hole,) = carry_while([minimum(position, count - 1)], goes_on, move)
    values[hole] = value
    indices[hole] = convert_int(position, "i32")


def emit_scatter(k: Kernel, elements: Elements, schedule: Schedule, out: Ptr, mode: Mode) -> None:
    """Each tile copies its own span of x, then writes those updates whose row is in it: no two tiles meet."""
    program, extents = elements.program, elements.extents
    x, indices, updates = program.root.operands
    row_shape = program.root.type.shape[1:]
    columns = extents.value(schedule.columns)
    count = extents.value(program.nodes[indices].type.shape[0])

    with schedule.spans(k, extents) as span:

        def copy_row(source: int, source_row: Value, row: Value) -> None:
            def copy(column: Coord) -> None:
                coords: Coords = (at(source_row), *extents.delinear(column, row_shape))
                write(out, row * columns + column.base, elements.at(source, coords), 0 if column.is_uniform else LANES)

            first, last = span.first_column, span.last_column
            for_columns(first, last, schedule.columns, mode.columns, copy)

        with loop(span.first_row, span.last_row) as row:
            copy_row(x, row, row)
        with loop(0, count) as update:
            row = convert_int(elements.at(indices, (at(update),)), "i64")
            with when((row >= span.first_row) & (row < span.last_row)):
                copy_row(updates, update, row)
