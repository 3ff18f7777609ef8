"""Where weights enter and leave: checkpoint tensors into `@prepare`, packed parameters out of it and into `@step`."""

from __future__ import annotations

from warploom.ir.attributes import Kind
from warploom.ir.dims import Shape
from warploom.ir.op import Attribute, Effect, Op, Operand
from warploom.ir.types import STORED, TensorType, tensor


class Named(Op):
    """Base of ops that stand for a stored tensor of a given name."""

    attributes = (Attribute("name", Kind.STR), Attribute("shape", Kind.SHAPE), Attribute("dtype", Kind.STR))

    def infer(self, *, name: str, shape: Shape, dtype: str) -> TensorType:
        """The stated type."""
        return tensor(shape, dtype)


class CheckpointTensor(Named):
    """A tensor of the checkpoint, by its Hugging Face name; only in `@prepare`."""

    name = "checkpoint"


class Param(Named):
    """A packed parameter, by the name under which `@prepare` exports it."""

    name = "param"


class Export(Op):
    """Defines a packed parameter; only in `@prepare`."""

    name = "export"
    operands = (Operand("value", STORED),)
    attributes = (Attribute("name", Kind.STR),)
    results = ()
    effect = Effect.EXPORT

    def infer(self, value: TensorType, *, name: str) -> tuple[TensorType, ...]:
        """No results."""
        return ()


checkpoint, param, export = CheckpointTensor(), Param(), Export()
