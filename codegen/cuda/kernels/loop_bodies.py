"""The source of a "loops" kernel: what surrounds the lines that compute elements, by the op at the root."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from warploom.codegen.cuda.extents import padded
from warploom.codegen.cuda.kernels.loop_arithmetic import highest, lowest, number, register_type, rounded
from warploom.codegen.cuda.kernels.loop_elements import ZERO, Elements, Place, Term
from warploom.codegen.cuda.render import render
from warploom.codegen.loop_program import FOLDS, Node, Program, flattened
from warploom.ir.dims import product
from warploom.ir.ops.random import PARITY, ROTATIONS

BLOCK = 1024  # elements of a block
MAX_COLUMNS = 1024  # of a fold, at once
UNKNOWN_COLUMNS = 256
HELPERS = ("tanh", "round_even", "larger", "smaller", "threefry")


def map_source(spec: Any, program: Program, stored: Sequence[int]) -> str:
    """A kernel that computes each element of some nodes of one shape by itself."""
    place = Term("place", frozenset({"place"}))
    elements = Elements(program, spec.wide, {"place": "inside"})
    shape = program.nodes[stored[-1]].type.shape
    where = Place(tuple(elements.delinear(place, shape)))
    values = [elements.value(node, where).text for node in stored]
    holes = {"body": elements.lines, "values": values, "count": product(shape), "block": BLOCK}
    return _render("loops_map.py.j2", spec, elements, **holes)


def scatter_source(spec: Any, program: Program) -> str:
    """A kernel that writes the updates of a scatter, which is the root, over a copy of its operand."""
    _, indices, updates = program.root.operands
    place = Term("place", frozenset({"place"}))
    elements = Elements(program, spec.wide, {"place": "inside"})
    shape = program.nodes[updates].type.shape
    coords = tuple(elements.delinear(place, shape))
    row = elements.value(indices, Place(coords[:1]))
    if spec.wide:
        row = elements.define("row", f"{row.text}.to(tl.int64)", row)
    value = elements.value(updates, Place(coords))
    target = f"{row.text} * ({product(shape[1:])}) + {elements.linear(coords[1:], shape[1:]).text}"
    holes = {"body": elements.lines, "value": value.text, "count": product(shape), "block": BLOCK}
    return _render("loops_scatter.py.j2", spec, elements, row=row.text, target=target, **holes)


def fold_source(spec: Any, program: Program) -> str:
    """A kernel whose root folds many elements into each of its own."""
    root, columns = program.root, fold_columns(program)
    inside = {"row": "row_inside", "column": "column_inside"}
    elements = Elements(program, spec.wide, inside)
    coords = elements.delinear(Term("row", frozenset({"row"})), root.type.shape)
    before = len(elements.lines)
    term = _term(elements, root, coords)
    source = program.nodes[root.operands[0]].type.dtype
    accumulator = "tl.int32" if source.value == "i8" and root.op == "reduce_sum" else register_type(source)
    identities = {"reduce_max": lowest(source), "argmax": lowest(source), "reduce_min": highest(source)}
    return _render(
        "loops_fold.py.j2",
        spec,
        elements,
        op=root.op,
        outer=elements.lines[:before],
        body=elements.lines[before:],
        term=term,
        identity=identities.get(root.op, number(0, source)),
        dtype=accumulator,
        result=rounded("result", root.type.dtype),
        count=product(root.type.shape),
        length=product(program.folded),
        columns=columns,
        rows=fold_rows(program),
    )


def row_source(spec: Any, program: Program) -> str:
    """A kernel whose root orders or sums up rows, each of which one block holds in registers."""
    root = program.root
    x = program.nodes[root.operands[0]].type
    elements = Elements(program, spec.wide, {"column": "column < LENGTH"})
    coords = elements.delinear(Term("row"), x.shape[:-1])
    column = Term("column", frozenset({"column"}))
    value = elements.value(root.operands[0], Place((*coords, column)))
    return _render(
        "loops_rows.py.j2",
        spec,
        elements,
        op=root.op,
        body=elements.lines,
        value=value.text,
        lowest=lowest(x.dtype),
        dtype=register_type(x.dtype),
        result=rounded("result", root.type.dtype),
        length=x.shape[-1],
        block=row_block(program),
        k=root.attrs.get("k", 0),
        returned=program.returned,
    )


def fold_columns(program: Program) -> int:
    """Elements that are folded at once."""
    length = product(program.folded)
    return _padded(length, MAX_COLUMNS) if isinstance(length, int) else UNKNOWN_COLUMNS


def fold_rows(program: Program) -> int:
    """Results of a block."""
    return max(1, BLOCK // fold_columns(program))


def row_block(program: Program) -> int:
    """A row, padded to a power of two."""
    length = program.nodes[program.root.operands[0]].type.shape[-1]
    assert isinstance(length, int)
    return _padded(length, 1 << 30)


def flat(program: Program) -> Program:
    """The program over one dimension where that is the same."""
    return program if program.root.op in FOLDS else flattened(program)


def _padded(length: int, limit: int) -> int:
    return min(limit, padded(length))


def _term(elements: Elements, root: Node, coords: Sequence[Term]) -> str:
    """What the fold takes in at a row and a column of the block."""
    column = Term("column", frozenset({"column"}))
    if root.op != "dot_general":
        axis = root.attrs.get("axis", len(coords))
        return elements.value(root.operands[0], Place((*coords[:axis], column, *coords[axis:]))).text
    contracted = elements.delinear(column, elements.program.folded)
    batch = len(root.attrs["x_batch"])
    free = iter(coords[batch:])  # of x, then of y
    factors = []
    for side, operand in zip(("x", "y"), root.operands, strict=True):
        fixed = dict(zip(root.attrs[f"{side}_batch"], coords[:batch], strict=True))
        fixed |= dict(zip(root.attrs[f"{side}_contract"], contracted, strict=True))
        rank = elements.program.nodes[operand].type.rank
        place = Place(tuple(fixed[i] if i in fixed else next(free, ZERO) for i in range(rank)))
        factors.append(elements.value(operand, place).text)
    return " * ".join(factors)


def _render(file: str, spec: Any, elements: Elements, **holes: Any) -> str:
    lines = " ".join([*elements.lines, *(str(hole) for hole in holes.values())])
    tables = {
        name: [number(float(value), array.dtype) for value in array.numpy.ravel()]
        for name, array in elements.tables.items()
    }
    types = {name: register_type(array.dtype) for name, array in elements.tables.items()}
    helpers = [name for name in HELPERS if f"{name}(" in lines]
    return render(
        file, spec=spec, tables=tables, types=types, helpers=helpers, parity=PARITY, rotations=ROTATIONS, **holes
    )
