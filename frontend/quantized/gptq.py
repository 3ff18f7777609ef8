"""GPTQ checkpoints of four or eight bits (Frantar et al. 2022; the packing of AutoGPTQ and GPTQModel).

qweight i32 [k * bits/32, n] is packed along k, qzeros i32 [groups, n * bits/32] along n, scales f16 [groups, n].
A weight is (q - zero) * scale; `checkpoint_format` gptq stores zero - 1, gptq_v2 zero itself. With `desc_act` g_idx [k]
names the group of each column, see `act_order.py`. Where every zero is in the middle, as `sym` says, there are no
offsets. Groups of different sizes (k is no multiple of the group) are read as floats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warploom.frontend.quantized.act_order import Orders, are_even
from warploom.frontend.quantized.format import Format, Parts, Tensors, fields, refuse, side_dtype, signed
from warploom.frontend.tensors import NUMPY_DTYPES, Array, LazyTensor, require

PARTS = ("qweight", "qzeros", "scales", "g_idx")


@dataclass(frozen=True)
class _Module:
    """The tensors of one module; zeros are stored less `zero_bias`."""

    qweight: LazyTensor
    qzeros: LazyTensor
    scales: LazyTensor
    g_idx: LazyTensor | None
    bits: int
    zero_bias: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weight."""
        return self.qweight.shape[1], self.qweight.shape[0] * (32 // self.bits)

    @property
    def is_even(self) -> bool:
        """Whether all groups have the same number of columns."""
        groups, columns = self.scales.shape[0], self.shape[1]
        return columns % groups == 0 if self.g_idx is None else are_even(self.g_idx.load(), groups)

    def numbers(self) -> Array:
        """q [n, k], columns as they are stored."""
        return np.ascontiguousarray(signed(fields(self.qweight.load(), self.bits, 0), self.bits).T)

    def zero_words(self) -> NDArray[np.uint32]:
        """Packed zeros. v1 took one from each by subtracting a word, with borrows, as GPTQModel adds it."""
        return self.qzeros.load().view(np.uint32) + np.uint32(self.zero_bias * self._each(1))

    @property
    def is_symmetric(self) -> bool:
        """Whether every zero is in the middle."""
        return bool((self.zero_words() == self._each(1 << (self.bits - 1))).all())

    def zeros(self) -> NDArray[np.int16]:
        """[n, groups], of signed numbers."""
        return fields(self.zero_words(), self.bits, 1).T - (1 << (self.bits - 1))

    def _each(self, number: int) -> int:
        """A word of equal numbers."""
        return sum(number << place for place in range(0, 32, self.bits))


def modules(config: Mapping[str, Any], tensors: Tensors) -> Iterator[tuple[str, Parts, tuple[str, ...]]]:
    """Every module that has a qweight."""
    bits, kind = config.get("bits"), config.get("checkpoint_format", "gptq")
    if bits not in (4, 8) or kind not in ("gptq", "gptq_v2"):
        raise refuse("this variant of GPTQ is not supported", "4 or 8 bits, gptq or gptq_v2", f"{bits} bits, {kind}")
    assert isinstance(bits, int)
    orders = Orders()
    for name in tensors:
        if name.endswith(".qweight"):
            path = name.removesuffix(".qweight")
            found = {part: tensors.get(f"{path}.{part}") for part in PARTS}
            qweight, qzeros, scales = (tensors[f"{path}.{part}"] for part in PARTS[:3])
            groups, n = scales.shape[0], qweight.shape[1]
            require(tensors, scales.name, (groups, n))
            require(tensors, qzeros.name, (groups, n * bits // 32))
            module = _Module(qweight, qzeros, scales, found["g_idx"], bits, 1 if kind == "gptq" else 0)
            yield path, _parts(path, module, orders), tuple(tensor.name for tensor in found.values() if tensor)


def _parts(path: str, module: _Module, orders: Orders) -> Parts:
    n, k = module.shape
    if not module.is_even:
        if module.g_idx is None:
            raise refuse(f"{path}: its columns do not divide into groups, and it has no g_idx", "g_idx", f"{k} columns")
        return Parts((((n, k), "f32"),), partial(_read_floats, module))
    order = orders.find(path, module.g_idx)
    numbers = ((n, k), f"i{module.bits}")
    if not module.is_symmetric:
        side = ((n, module.scales.shape[0]), "f32")
        return Parts((numbers, side, side), partial(_read, module, order, "f32"), order=order)
    side = ((n, module.scales.shape[0]), side_dtype(module.scales))
    return Parts((numbers, side), partial(_read, module, order, side[1]), order=order)


def _read(module: _Module, order: LazyTensor | None, side: str) -> tuple[Array, ...]:
    """Numbers sorted by group, scales, and offsets where there are any."""
    q, scale = module.numbers(), module.scales.load().T.astype(NUMPY_DTYPES[side])
    q = q if order is None else q[:, order.load()]
    if module.is_symmetric:
        return q, scale
    return q, scale, -module.zeros().astype(np.float32) * scale.astype(np.float32)


def _read_floats(module: _Module) -> tuple[Array]:
    """The values of a weight whose groups differ in size."""
    assert module.g_idx is not None
    group = module.g_idx.load()
    scale, zeros = module.scales.load().T.astype(np.float32)[:, group], module.zeros()[:, group]
    return ((module.numbers().astype(np.float32) - zeros) * scale,)


FORMAT = Format("gptq", modules)
