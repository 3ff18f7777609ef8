"""A fusion group as plain Python: a list of nodes, hashable, free of MLIR and of the names that a pass made up."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import mlir.ir as mlir
import numpy as np

from warploom.ir.attributes import AttrValue
from warploom.ir.dims import Dim, DimLike, Shape, product
from warploom.ir.function import Function
from warploom.ir.op import OPS, op_of
from warploom.ir.patterns import is_elementwise
from warploom.ir.types import DType, TensorType, type_of

INPUT = "input"
FOLDS = frozenset({"reduce_sum", "reduce_max", "reduce_min", "argmax", "dot_general"})
ROWS = frozenset({"cumsum", "sort", "top_k"})
ROOTS = FOLDS | ROWS | {"scatter"}
CORE_FAMILIES = frozenset({"elementwise", "shape", "reduce", "random"})


@dataclass(frozen=True, slots=True)
class Array:
    """A numpy array by value."""

    shape: tuple[int, ...]
    dtype: DType
    data: bytes

    @classmethod
    def of(cls, array: np.ndarray) -> Array:
        """The hashable form of `array`."""
        return cls(array.shape, DType.of(array), array.tobytes())

    @property
    def numpy(self) -> np.ndarray:
        """The array again."""
        return np.frombuffer(self.data, self.dtype.numpy).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Node:
    """An input or an op. `operands` are positions of earlier nodes; only the root has several results."""

    op: str
    operands: tuple[int, ...]
    types: tuple[TensorType, ...]
    attributes: tuple[tuple[str, Hashable], ...] = ()

    @property
    def type(self) -> TensorType:
        """The type of the first result."""
        return self.types[0]

    @property
    def attrs(self) -> dict[str, Any]:
        """The op's attributes by name."""
        return dict(self.attributes)


@dataclass(frozen=True, slots=True)
class Program:
    """Inputs first, then ops in order; the last node is the root.

    `returned` are the results of the root that the group returns, in order. `dims` are the symbols that occur.
    `others` are further elementwise nodes, of the root's shape, whose results the group returns before those.
    """

    nodes: tuple[Node, ...]
    returned: tuple[int, ...]
    dims: tuple[str, ...]
    others: tuple[int, ...] = ()

    @property
    def root(self) -> Node:
        """The op whose results are returned."""
        return self.nodes[-1]

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        """Types of the inputs."""
        return tuple(n.type for n in self.nodes if n.op == INPUT)

    @property
    def ops(self) -> tuple[Node, ...]:
        """All nodes that are no inputs."""
        return tuple(n for n in self.nodes if n.op != INPUT)

    @property
    def results(self) -> tuple[TensorType, ...]:
        """Types of the returned values."""
        return (*(self.nodes[i].type for i in self.others), *(self.root.types[i] for i in self.returned))

    @property
    def stored(self) -> tuple[int, ...]:
        """Nodes whose first result is stored element by element: the others, then the root."""
        return (*self.others, len(self.nodes) - 1)

    @property
    def folded(self) -> Shape:
        """The dimensions that the root folds away."""
        if self.root.op not in FOLDS:
            return ()
        shape = self.nodes[self.root.operands[0]].type.shape
        if self.root.op == "dot_general":
            return tuple(shape[i] for i in self.root.attrs["x_contract"])
        return (shape[self.root.attrs.get("axis", len(shape) - 1)],)

    @property
    def flops(self) -> DimLike:
        """One per element of a float op; per element taken in, one of a reduction and two of a contraction."""
        total: DimLike = 0
        for node in self.ops:
            if node.type.dtype.is_float and family(node.op) == "elementwise":
                total = total + product(node.type.shape)
        if self.root.op in FOLDS:
            taken = product(self.root.type.shape) * product(self.folded)
            total = total + taken * (2 if self.root.op == "dot_general" else 1)
        return total

    def __str__(self) -> str:
        ops = ", ".join(node.op for node in self.ops)
        return f"{ops} -> {', '.join(map(str, self.results))}"

    @property
    def text(self) -> str:
        """One line per node: equal programs have equal text."""
        lines = []
        for position, node in enumerate(self.nodes):
            operands = ", ".join(f"%{i}" for i in node.operands)
            attributes = "".join(f", {name}={_show(value)}" for name, value in node.attributes)
            lines.append(f"%{position} = {node.op}({operands}{attributes}) : {', '.join(map(str, node.types))}")
        others = f" and {self.others}" if self.others else ""
        return "\n".join([*lines, f"return {self.returned}{others} of {', '.join(self.dims)}"])

    @property
    def digest(self) -> str:
        """Eight hex digits that tell programs apart."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:8]


def program_of(group: Function) -> Program | str:
    """The program of a group, or why it has not the form that loops can be written for."""
    roots = _roots(group)
    if isinstance(roots, str):
        return roots
    *others, root = roots
    used = _reachable(roots)
    producers = [op for op in group.ops if op in used and op != root]
    refusal = next((reason for op in [*producers, root] if (reason := _refusal(op, op == root))), None)
    if refusal:
        return refusal
    position: dict[mlir.Value, int] = {argument: i for i, argument in enumerate(group.body.arguments)}
    nodes = [Node(INPUT, (), (type_of(argument),)) for argument in group.body.arguments]
    for operation in [*producers, root]:
        nodes.append(_node(operation, position))
        position[operation.results[0]] = len(nodes) - 1
    results = list(root.results)
    returned = tuple(results.index(value) for value in list(group.terminator.operands)[len(others) :])
    return Program(tuple(nodes), returned, _symbols(nodes), tuple(position[op.results[0]] for op in others))


def flattened(program: Program) -> Program:
    """The same program over one dimension where every op works element by element in memory order; else unchanged."""
    size = product(program.root.type.shape)
    read = {operand for node in program.ops for operand in node.operands}
    nodes = [node for i, node in enumerate(program.nodes) if node.op != INPUT or i in read]
    if not all(_is_flat(node, size) for node in nodes):
        return program
    return replace(program, nodes=tuple(replace(n, types=(n.type.with_shape((size,)),)) for n in program.nodes))


def _is_flat(node: Node, size: DimLike) -> bool:
    in_order = node.op in (INPUT, "reshape", "full") or family(node.op) == "elementwise"
    return in_order and product(node.type.shape) == size


def family(op: str) -> str:
    """The file of `ir/ops` that defines the op."""
    return type(OPS[op]).__module__.rpartition(".")[2]


def _roots(group: Function) -> list[mlir.Operation] | str:
    """The ops whose results are returned, in that order, or why loops cannot be written around them."""
    returned = list(group.terminator.operands)
    if not returned:
        return "the group returns nothing"
    if any(isinstance(value.owner, mlir.Block) for value in returned):
        return "the group returns one of its inputs"
    if len(set(returned)) < len(returned):
        return "the group returns a value twice"
    roots = list(dict.fromkeys(value.owner.operation for value in returned))
    if len(roots) > 1 and not _share_loops(roots):
        return f"the group has {len(roots)} roots that are not elementwise, in order and of one shape"
    return roots


def _share_loops(roots: list[mlir.Operation]) -> bool:
    """Whether each element of every root is computed for one index, the same for all."""
    shapes = {type_of(root.results[0]).shape for root in roots}
    in_order = all(a.is_before_in_block(b) for a, b in pairwise(roots))
    return in_order and len(shapes) == 1 and all(map(is_elementwise, roots))


def _reachable(roots: list[mlir.Operation]) -> set[mlir.Operation]:
    found, pending = set(roots), list(roots)
    while pending:
        for operand in pending.pop().operands:
            owner = operand.owner
            if not isinstance(owner, mlir.Block) and owner.operation not in found:
                found.add(owner.operation)
                pending.append(owner.operation)
    return found


def _refusal(operation: mlir.Operation, is_root: bool) -> str | None:
    op = op_of(operation)
    if op is None or family(op.name) not in CORE_FAMILIES:
        return f"{operation.name} is no core op"
    if op.name in ROOTS and not is_root:
        return f"{op.name} cannot be inlined into another op; it has to be the root of its own group"
    return None


def _node(operation: mlir.Operation, position: dict[mlir.Value, int]) -> Node:
    op = op_of(operation)
    assert op is not None
    attributes = tuple((name, _freeze(value)) for name, value in sorted(op.attrs_of(operation).items()))
    operands = tuple(position[value] for value in operation.operands)
    return Node(op.name, operands, tuple(type_of(result) for result in operation.results), attributes)


def _freeze(value: AttrValue) -> Hashable:
    return Array.of(value) if isinstance(value, np.ndarray) else value


def _show(value: Hashable) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_show, value))}]"
    return value.data.hex() if isinstance(value, Array) else str(value)


def _symbols(nodes: Sequence[Node]) -> tuple[str, ...]:
    """The symbols of the types; shapes in attributes are those of result types."""
    shapes = [d for node in nodes for type_ in node.types for d in type_.shape]
    return tuple(sorted({symbol for d in shapes if isinstance(d, Dim) for symbol in d.symbols}))
