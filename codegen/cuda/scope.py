"""What the kernels of a group read and write, by the names that they give their operands and dims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from warploom.codegen.binding import Slot
from warploom.codegen.cuda.kernel import CudaKernelSpec, Step
from warploom.runtime.expr import Expr

Slots: TypeAlias = Mapping[str, Slot]


@dataclass(frozen=True, slots=True)
class Scope:
    """Slots of a group by operand name, and expressions over its symbols by dim name."""

    slots: Slots
    dims: Mapping[str, Expr]

    def with_temps(self, names: Iterable[str]) -> Scope:
        """The same and the temps of a match, by names in their order."""
        return self.with_slots({name: Slot("temp", index) for index, name in enumerate(names)})

    def with_slots(self, slots: Slots) -> Scope:
        """The same and further slots, or others of the same names."""
        return Scope({**self.slots, **slots}, self.dims)

    def step(self, spec: CudaKernelSpec, **renamed: str) -> Step:
        """The launch of a kernel; `renamed`: its operands that have other names here."""
        operands = tuple(self.slots[renamed.get(operand.name, operand.name)] for operand in spec.operands)
        return Step(spec, operands, {name: self.dims[name] for name in spec.dims})
