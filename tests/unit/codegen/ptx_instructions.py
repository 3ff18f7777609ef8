"""A few PTX instructions in NumPy, for kernels with inline assembly that Triton's interpreter runs.

Registers are arrays of uint32, all lanes at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np

Words = Any  # an array of uint32, or one


def words(array: np.ndarray, pack: int) -> list[np.ndarray]:
    """Elements as the registers that hold `pack` of them, one after another."""
    return list(np.ascontiguousarray(array).reshape(-1, pack).view(np.uint32).T)


def run_ptx(asm: str, inputs: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """The first `count` registers, which are the outputs; the inputs are numbered after them.

    Raises:
        ValueError: an instruction is not known here.
    """
    lanes = inputs[0].shape
    registers: dict[str, Words] = {f"${count + i}": word for i, word in enumerate(inputs)}
    for line in (line.strip() for line in asm.split(";")):
        name, _, rest = line.removeprefix("{").strip().partition(" ")
        if name in _INSTRUCTIONS:
            target, *operands = (part.strip() for part in re.split(r",(?![^{]*})", rest))
            values = (registers[text] if text in registers else _constant(text) for text in operands)
            found = _INSTRUCTIONS[name](*(np.broadcast_to(value, lanes) for value in values))
            if target.startswith("{"):
                low, high = target.strip("{ }").split(", ")
                registers |= {low: found & np.uint32(0xFFFF), high: found >> np.uint32(16)}
            else:
                registers[target] = found
        elif name not in (".reg", "}"):
            raise ValueError(f"{name} is no instruction that is known here")
    return [np.broadcast_to(registers[f"${i}"], lanes) for i in range(count)]


def _constant(text: str) -> np.uint32:
    """`15`, `0x0f`, or the bits of a float, `0f3F800000`."""
    return np.uint32(int(text[2:], 16) if text.startswith("0f") else int(text, 0))


def _prmt(a: Words, b: Words, selector: Words) -> Words:
    chosen = [(int(selector.flat[0]) >> 4 * i) & 7 for i in range(4)]
    pieces = [((a, b)[at // 4] >> np.uint32(8 * (at % 4))) & np.uint32(255) for at in chosen]
    return sum((piece << np.uint32(8 * i) for i, piece in enumerate(pieces)), np.zeros_like(a))


def _lop3(a: Words, b: Words, c: Words, table: Words) -> Words:
    wanted = [i for i in range(8) if int(table.flat[0]) >> i & 1]
    cases = [(a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c) for i in wanted]
    return np.bitwise_or.reduce(cases)


def _fma_pairs(*operands: Words) -> Words:
    """Of bf16x2."""
    a, b, c = (np.ascontiguousarray(word)[:, None].view(ml_dtypes.bfloat16).astype(np.float64) for word in operands)
    return np.ascontiguousarray((a * b + c).astype(ml_dtypes.bfloat16)).view(np.uint32)[:, 0]


def _floats(operation: Callable[..., Any]) -> Callable[..., Words]:
    """An operation on f32: computed in f64, rounded once."""

    def computed(*operands: Words) -> Words:
        values = (np.ascontiguousarray(word).view(np.float32).astype(np.float64) for word in operands)
        return operation(*values).astype(np.float32).view(np.uint32)

    return computed


def _halves_of_f8(word: Words) -> Words:
    """Two f8, the low 16 bits, as f16x2."""
    codes = np.stack((word & np.uint32(255), word >> np.uint32(8) & np.uint32(255)), -1).astype(np.uint8)
    return codes.view(ml_dtypes.float8_e4m3fn).astype(np.float16).view(np.uint32)[..., 0]


_INSTRUCTIONS: dict[str, Callable[..., Words]] = {
    "mov.b32": lambda a: a,
    "shl.b32": lambda a, n: a << n,
    "shr.u32": lambda a, n: a >> n,
    "and.b32": lambda a, b: a & b,
    "xor.b32": lambda a, b: a ^ b,
    "prmt.b32": _prmt,
    "lop3.b32": _lop3,
    "fma.rn.bf16x2": _fma_pairs,
    "add.f32": _floats(lambda a, b: a + b),
    "mul.f32": _floats(lambda a, b: a * b),
    "fma.rn.f32": _floats(lambda a, b, c: a * b + c),
    "cvt.rn.f16x2.e4m3x2": _halves_of_f8,
    "cvt.f32.f16": lambda a: a.astype(np.uint16).view(np.float16).astype(np.float32).view(np.uint32),
}
