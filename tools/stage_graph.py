"""An IR stage as a graph that the explorer draws: one node an op or call, one edge a value."""

from __future__ import annotations

from dataclasses import dataclass

import mlir.ir as mlir

from warploom.ir.function import Function, functions, path_of
from warploom.ir.op import op_of
from warploom.ir.ops.parameters import param
from warploom.ir.rewrite import entries, is_op
from warploom.ir.types import type_of


@dataclass(frozen=True)
class Node:
    """An op or call of an entry.

    Attributes:
        op: its name; of a call the kind of its group.
        path: module path in the model.
        type: of the results, as people write them.
        reads: the nodes that make its operands, by place in the list.
        given: inputs and parameters that it reads, by name.
        detail: attributes of an op, or the ops of a group.
        group: the callee of a call, or empty.
    """

    op: str
    path: str
    type: str
    reads: list[int]
    given: list[str]
    detail: str
    group: str


def stage_graph(module: mlir.Module) -> dict[str, list[Node]]:
    """Return the nodes of every entry of a module, in order."""
    groups = functions(module)
    return {function.name: _nodes(function, groups) for function in entries(module)}


def _nodes(function: Function, groups: dict[str, Function]) -> list[Node]:
    names = {value: name for name, value in function.inputs.items()}
    made: dict[mlir.Value, int] = {}
    nodes: list[Node] = []
    for operation in function.ops:
        if is_op(operation, param):
            names[operation.results[0]] = str(operation.attributes["name"].value)
            continue
        operands = list(operation.operands)
        callee = str(operation.attributes["callee"].value) if operation.name == "func.call" else ""
        op = str(groups[callee].operation.attributes["wl.kind"].value) if callee else operation.name.removeprefix("wl.")
        node = Node(
            op=op,
            path=path_of(operation),
            type=", ".join(_written(result) for result in operation.results),
            reads=list(dict.fromkeys(made[v] for v in operands if v in made)),
            given=[names[v] for v in operands if v in names],
            detail=_ops(groups[callee]) if callee else _attributes(operation),
            group=callee,
        )
        made |= dict.fromkeys(operation.results, len(nodes))
        nodes.append(node)
    return nodes


def _written(value: mlir.Value) -> str:
    type_ = type_of(value)
    return f"{' x '.join(map(str, type_.shape)) or 'scalar'} {type_.dtype}"


def _ops(group: Function) -> str:
    return " + ".join(operation.name.removeprefix("wl.") for operation in group.ops)


def _attributes(operation: mlir.Operation) -> str:
    op, given = op_of(operation), operation.attributes
    shown = {a.name: str(given[a.name]) for a in (op.attributes if op is not None else ()) if a.name in given}
    return ", ".join(f"{name} = {text if len(text) < 60 else text[:57] + '...'}" for name, text in shown.items())
