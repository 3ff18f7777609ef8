"""What names of kernels are made of: they are identifiers of Python and C."""

from __future__ import annotations

from warploom.ir.types import DType


def identifier(text: str) -> str:
    """Text with numbers such as `1e-05`, `0.5` or `0x1.8p+3` in it as a part of a name."""
    return text.replace("-", "m").replace(".", "p").replace("+", "")


def short(dtype: DType) -> str:
    """A dtype: `f8`."""
    return dtype.value.removesuffix("e4m3")
