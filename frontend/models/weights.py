"""Checkpoint tensors as IR values: loaded and exported in `@prepare`, used as parameters in `@step`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mlir.ir as mlir

from warploom.errors import CheckpointError
from warploom.frontend.stacked import names_of, stack, stack_parts
from warploom.frontend.tensors import LazyTensor
from warploom.ir.function import FunctionBuilder, scope
from warploom.ir.ops.columns import place_columns
from warploom.ir.ops.dequantize import dequantize
from warploom.ir.ops.mxfp4 import dequantize_mxfp4
from warploom.ir.ops.parameters import checkpoint, export, param
from warploom.ir.ops.shape import concat
from warploom.ir.types import DType, type_of

FLOATS = ("f32", "f16", "bf16")


@dataclass
class Weights:
    """Tensors under a prefix; `weights / "self_attn"` goes one module down.

    `require` gives the tensor of a full name, checked to have a shape.
    """

    require: Callable[[str, tuple[int, ...]], LazyTensor]
    prepare: FunctionBuilder
    params: dict[str, mlir.Value]
    prefix: str = ""

    def __truediv__(self, module: str | int) -> Weights:
        return Weights(self.require, self.prepare, self.params, f"{self.prefix}{module}.")

    def inside(self, module: str, holding: str, shape: tuple[int, ...]) -> Weights:
        """One module down, or here if the checkpoint leaves the module's name out: where the tensor `holding` is."""
        below = self / module
        try:
            self.require(below.prefix + holding, shape)
        except CheckpointError:
            try:
                self.require(self.prefix + holding, shape)
            except CheckpointError:
                return below  # whose error names what transformers writes
            return self
        return below

    @property
    def path(self) -> str:
        """The module path, as Hugging Face names it."""
        return self.prefix.rstrip(".")

    def __call__(self, name: str, shape: tuple[int, ...]) -> mlir.Value:
        """The parameter `<prefix><name>`, which must have this shape.

        Raises:
            CheckpointError: it is missing, has another shape, or holds no numbers that a weight could have.
        """
        full = self.prefix + name
        if full not in self.params:
            parts, stored = self.parts(name, shape), self.require(full, shape)
            self.params[full] = self._ordered(_values(parts), stored) if parts else self._param(_floats(stored))
        return self.params[full]

    def _ordered(self, values: mlir.Value, stored: LazyTensor) -> mlir.Value:
        """Columns of a quantized tensor where they belong."""
        if stored.order is None:
            return values
        name = stored.order.name  # modules may share it
        if name not in self.params:
            self.params[name] = self._param(stored.order)
        result: mlir.Value = place_columns(values, self.params[name])
        return result

    def stacked(self, pattern: str, shape: tuple[int, int]) -> mlir.Value:
        """The tensors that a pattern spells (see `frontend.stacked`), each of this shape, rows after one another.

        Quantized ones that have an order of columns each are read as floats: experts read their rows in one order.

        Raises:
            CheckpointError: one is missing or has another shape.
        """
        full, tensors = self.prefix + pattern, [self.require(self.prefix + name, shape) for name in names_of(pattern)]
        if any(tensor.order is not None for tensor in tensors):
            tensors = [replace(tensor, parts=(), order=None) for tensor in tensors]
        together = stack(full, tensors)
        if together is not None:
            return self._param(_floats(together))
        parts = stack_parts(full, tensors)
        if parts:
            return _values([self._param(part) for part in parts])
        return _joined([self(name, shape) for name in names_of(pattern)])

    def parts(self, name: str, shape: tuple[int, ...]) -> tuple[mlir.Value, ...]:
        """Of a quantized tensor that is to stay so the parameters that stand for it: numbers, scales, maybe offsets."""
        return tuple(self._param(part) for part in self.require(self.prefix + name, shape).parts)

    def _param(self, tensor: LazyTensor) -> mlir.Value:
        with self.prepare.point, scope(tensor.name):
            stored = checkpoint(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype)
            export(stored, name=tensor.name)
        result: mlir.Value = param(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype)
        return result


def _floats(tensor: LazyTensor) -> LazyTensor:
    """The tensor, which holds floats that weights come in, or was made of quantized ones."""
    if tensor.dtype not in FLOATS:
        raise CheckpointError(
            f"tensor {tensor.name} in {tensor.source} holds numbers that no weight comes in",
            expected=", ".join(FLOATS),
            found=tensor.dtype,
            fix="convert it to one of these; if it is quantized, config.json has to say how, as `quantization_config`",
        )
    return tensor


def _values(parts: Sequence[mlir.Value]) -> mlir.Value:
    """What parts stand for; scales of bytes are exponents, of MXFP4."""
    numbers = dequantize_mxfp4 if type_of(parts[1]).dtype is DType.I8 else dequantize
    result: mlir.Value = numbers(*parts)
    return result


def _joined(matrices: Sequence[mlir.Value]) -> mlir.Value:
    """Rows of all matrices in order, by halves: each number is copied log2(matrices) times, not once for each."""
    if len(matrices) == 1:
        return matrices[0]
    middle = len(matrices) // 2
    result: mlir.Value = concat(_joined(matrices[:middle]), _joined(matrices[middle:]), axis=0)
    return result
