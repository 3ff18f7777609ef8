"""What of a linear layer its best tiles depend on, as tuning files name it: `28672x4096_i4g32_rms_swiglu`."""

from __future__ import annotations

import re
from typing import NamedTuple

from warploom.codegen.cuda.kernels.linear_problem import LinearProblem
from warploom.codegen.names import short
from warploom.ir.types import DType

_TEXT = re.compile(r"(\d+)x(\d+)(?:_(f8|i8|i4)g(\d+)(x?))?(_rms)?(?:_(residual|swiglu))?")


class LayerKey(NamedTuple):
    """The key of a layer.

    Attributes:
        n, k: W is [n, k].
        numbers: of W: f8, i8 or i4; empty: bf16.
        groups: scales of a row; 0: none.
        offset: whether there are offsets.
        norm: whether x is normed first.
        epilogue: residual, swiglu, or empty.
    """

    n: int
    k: int
    numbers: str
    groups: int
    offset: bool
    norm: bool
    epilogue: str

    @classmethod
    def of(cls, problem: LinearProblem) -> LayerKey:
        """The key of a problem."""
        weight = problem.weight
        numbers = "" if weight.dtype is DType.BF16 else short(weight.dtype)
        norm, epilogue = problem.norm is not None, problem.epilogue or ""
        return cls(problem.n, problem.k, numbers, weight.groups, weight.offset, norm, epilogue)

    @classmethod
    def parse(cls, text: str) -> LayerKey:
        """The key that a text is."""
        match = _TEXT.fullmatch(text)
        assert match is not None, text
        n, k, numbers, groups, offset, norm, epilogue = match.groups()
        return cls(int(n), int(k), numbers or "", int(groups or 0), bool(offset), bool(norm), epilogue or "")

    @property
    def width(self) -> int:
        """Columns of the result."""
        return self.n // 2 if self.epilogue == "swiglu" else self.n

    def __str__(self) -> str:
        numbers = f"_{self.numbers}g{self.groups}{'x' if self.offset else ''}" if self.groups else ""
        norm, epilogue = "_rms" if self.norm else "", f"_{self.epilogue}" if self.epilogue else ""
        return f"{self.n}x{self.k}{numbers}{norm}{epilogue}"


def key_of(problem: LinearProblem) -> str:
    """The key of a problem, as text."""
    return str(LayerKey.of(problem))
