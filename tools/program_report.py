"""What is in an IR program, as plain rows for `warploom inspect`: an entry's size, and its ops by kind."""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.ir.context import new_context
from warploom.ir.ops.parameters import param
from warploom.ir.rewrite import entries, is_op
from warploom.tools.program_files import read_program
from warploom.tools.stage_graph import Node, stage_graph


@dataclass(frozen=True)
class EntryRow:
    """An entry. `ops` are those that are in no group, parameters left out; `calls` are of groups."""

    entry: str
    inputs: str
    results: str
    dims: str
    params: int
    ops: int
    calls: int


@dataclass(frozen=True)
class OpRow:
    """Ops of one kind, or calls of groups of one kind with the same ops in them.

    Attributes:
        result, location: of the first.
        detail: of a group: its ops.
    """

    entry: str
    op: str
    times: int
    result: str
    location: str
    detail: str


def entry_rows(source: str) -> list[EntryRow]:
    """Return a row for each entry of a program; see `read_program` for the source and for errors."""
    with new_context(), mlir.Location.unknown():
        module = read_program(source)
        graphs = stage_graph(module)
        return [
            EntryRow(
                entry=function.name,
                inputs=", ".join(function.input_names),
                results=", ".join(function.result_names),
                dims=", ".join(f"{name} {bounds.min}..{bounds.max}" for name, bounds in function.dims.items()),
                params=sum(is_op(op, param) for op in function.ops),
                ops=sum(not node.group for node in graphs[function.name]),
                calls=sum(bool(node.group) for node in graphs[function.name]),
            )
            for function in entries(module)
        ]


def op_rows(source: str) -> list[OpRow]:
    """Return a row for each kind of op of a program, in the order of their first use."""
    with new_context(), mlir.Location.unknown():
        graphs = stage_graph(read_program(source))
    alike: dict[tuple[str, str, str], list[Node]] = {}
    for entry, nodes in graphs.items():
        for node in nodes:
            alike.setdefault((entry, node.op, node.detail if node.group else ""), []).append(node)
    return [
        OpRow(entry, op, len(nodes), nodes[0].type, nodes[0].path, detail)
        for (entry, op, detail), nodes in alike.items()
    ]
