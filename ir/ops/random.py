"""Counter-based random bits: the same key and counter give the same bits on every device and in every batch."""

from __future__ import annotations

import mlir.ir as mlir
import numpy as np

from warploom.errors import IRError
from warploom.ir.attributes import AttrValue, Kind
from warploom.ir.op import Attribute, Chooser, Op, Operand
from warploom.ir.types import DType, TensorType, tensor

I32 = frozenset({DType.I32})
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = 0x1BD11BDA


class RandomBits(Op):
    """Threefry-2x32 with 20 rounds (Salmon et al., SC 2011): row r, column i is word 0 of the block of
    key keys[r] and counter (counters[r], i).
    """

    name = "random_bits"
    operands = (Operand("keys", I32), Operand("counters", I32))
    attributes = (Attribute("n", Kind.INT),)

    def infer(self, keys: TensorType, counters: TensorType, *, n: int) -> TensorType:
        """i32 [R, n] from keys [R, 2] and counters [R]."""
        if counters.rank != 1 or not keys.matches(tensor((*counters.shape, 2), DType.I32)):
            raise IRError("wrong shapes", expected="keys [R, 2], counters [R]", found=f"{keys}, {counters}")
        return tensor((*counters.shape, n), DType.I32)

    def evaluate(self, keys: np.ndarray, counters: np.ndarray, *, n: int) -> np.ndarray:
        """Vectorized over rows and columns."""
        key = np.ascontiguousarray(keys).view(np.uint32)
        low = np.broadcast_to(np.ascontiguousarray(counters).view(np.uint32)[:, None], (len(counters), n))
        high = np.broadcast_to(np.arange(n, dtype=np.uint32), (len(counters), n))
        return threefry2x32(key[:, :1], key[:, 1:], low, high).view(np.int32)

    def generate(self, choose: Chooser) -> tuple[list[mlir.Value], dict[str, AttrValue]]:
        """Arbitrary keys."""
        rows = choose.symbol()
        keys = choose.input(tensor((rows, 2), DType.I32), -(2**31), 2**31 - 1)
        counters = choose.input(tensor((rows,), DType.I32), 0, 2**31 - 1)
        return [keys, counters], {"n": choose.integer(1, 40)}


def threefry2x32(key0: np.ndarray, key1: np.ndarray, counter0: np.ndarray, counter1: np.ndarray) -> np.ndarray:
    """Word 0 of Threefry-2x32-20; all arguments uint32 and broadcastable."""
    schedule = (key0, key1, key0 ^ key1 ^ np.uint32(PARITY))
    a, b = counter0 + schedule[0], counter1 + schedule[1]
    for group in range(5):
        for rotation in ROTATIONS[group % 2]:
            a = a + b
            b = ((b << np.uint32(rotation)) | (b >> np.uint32(32 - rotation))) ^ a
        a = a + schedule[(group + 1) % 3]
        b = b + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return a


random_bits = RandomBits()
