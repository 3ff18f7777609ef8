"""What a fusion rule proposes: the ops of a group around a hero, and why neighbours are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import mlir.ir as mlir

from warploom.ir.op import Op
from warploom.ir.ops.shape import reshape, slice_axis
from warploom.ir.rewrite import producer, users


class Proposal:
    """The ops that a rule wants in a hero's group, and why it left neighbours out."""

    def __init__(self, hero: mlir.Operation) -> None:
        self.ops = [hero]
        self.is_whole = False  # the group is taken as it is, or left to a later phase
        self.optional: list[mlir.Operation] = []
        self.refusals: list[str] = []

    def take(self, *ops: mlir.Operation) -> None:
        """Add ops to the group."""
        self.ops += [op for op in ops if op not in self.ops]

    def may_take(self, operation: mlir.Operation) -> None:
        """Add an op that the group can do without, if the next ones are left out too."""
        self.optional.append(operation)

    def candidates(self) -> Iterator[list[mlir.Operation]]:
        """The groups to ask for, the largest first."""
        if self.is_whole and len(self.ops) == 1:
            return
        smallest = [self.ops[:1]] if len(self.ops) > 1 and not self.is_whole else []
        for ops in (self.ops, *smallest):
            for count in range(len(self.optional), -1, -1):
                yield ops + self.optional[:count]

    def leave(self, operation: mlir.Operation, reason: str) -> None:
        """Record why an op stays outside."""
        self.refusals.append(f"{operation.name} stays outside: {reason}")

    def absorbs(self, value: mlir.Value) -> bool:
        """Whether every reader of a value is in the group."""
        return all(u in self.ops + self.optional for u in users(value))


Rule = Callable[[Proposal], Proposal]
Rules = Mapping[Op | None, tuple[str, Rule]]


def take_slices(proposal: Proposal, value: mlir.Value) -> None:
    """Add the slices and views that a value comes from, one after the other, as far as nobody else reads them."""
    while (operation := producer(value, reshape, slice_axis)) is not None and proposal.absorbs(value):
        proposal.take(operation)
        value = operation.operands[0]
