"""What a scheme of quantization is, and reading the choice of schemes that a user writes."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module

import mlir.ir as mlir
import numpy as np

from warploom.errors import CompileError
from warploom.passes import quantization

Choice = str | Mapping[str, str]  # a scheme, or schemes by pattern of module paths, which may be spelled `a=b,c=d`
Matrices = tuple[mlir.Value, ...]


@dataclass(frozen=True)
class Scheme:
    """One way of storing a weight matrix [n, k].

    Attributes:
        name: as the user wrote it, such as `int4:g64`.
        store: the operands that stand for a weight of row layout: one matrix of floats, or q, scale and maybe offset.
        refuses: why a matrix of n rows and k columns cannot be stored so, or None.
        table: name of the scheme of embedding tables that no linear reads.
        last: name of the scheme of linears after the last attention, the head among them, if it is another one.
        like: the scheme whose format this one writes, if that is not a format of its own: the one that targets know.
        experts: q and scale of MXFP4 (`ir/ops/mxfp4.py`) that stand for the matrices of all experts of a mixture; None:
            they are stored as all others.
        only_experts: other weights stay floats, so that it is of no use to a model without experts.
        quantizes: it makes (or keeps) numbers of few bits, so that activations may be quantized too.
        calibration: set where weights are scaled by how large the activations that meet them are: what a weight, f32
            [n, k], stands for once it is stored.
    """

    name: str
    store: Callable[[mlir.Value], Matrices]
    refuses: Callable[[int, int], str | None] = lambda n, k: None
    table: str = "bf16"
    last: str = ""
    like: str = ""
    experts: Callable[[mlir.Value], Matrices] | None = None
    only_experts: bool = False
    quantizes: bool = True
    calibration: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class SchemeFamily:
    """A scheme and its options.

    Attributes:
        name: what comes before the first colon.
        summary: one line for the help.
        options: what may follow, each after a colon, and what it means.
        make: the scheme of a full name and the options in it; they are among `options`.
    """

    name: str
    summary: str
    options: Mapping[str, str]
    make: Callable[[str, Sequence[str]], Scheme]


class Rules:
    """Which scheme a weight gets: that of the first pattern that one of its module paths matches."""

    def __init__(self, choice: Choice) -> None:
        """See `scheme` for errors."""
        by_pattern = _spelled(choice) if isinstance(choice, str) else choice
        self.by_pattern = tuple((pattern, scheme(text)) for pattern, text in by_pattern.items())

    def __str__(self) -> str:
        """As a user may spell it."""
        if [pattern for pattern, _ in self.by_pattern] == ["*"]:
            return self.by_pattern[0][1].name
        return ",".join(f"{pattern}={scheme.name}" for pattern, scheme in self.by_pattern)

    @property
    def need_text(self) -> bool:
        """Whether any scheme needs a calibration text."""
        return any(scheme.calibration is not None for _, scheme in self.by_pattern)

    @property
    def families(self) -> list[str]:
        """Names of the families of schemes that may be used."""
        used = [(scheme.like or scheme.name, scheme.table, scheme.last) for _, scheme in self.by_pattern]
        return sorted({name.partition(":")[0] for names in used for name in names if name})

    @property
    def quantize(self) -> bool:
        """Whether any scheme makes numbers of few bits."""
        return any(scheme.quantizes for _, scheme in self.by_pattern)

    def scheme_of(self, paths: Sequence[str]) -> Scheme | None:
        """The scheme of a weight with these paths, or None: it stays as it is."""
        for pattern, scheme in self.by_pattern:
            if any(fnmatchcase(path, pattern) for path in paths):
                return scheme
        return None


def _spelled(text: str) -> dict[str, str]:
    """`lm_head=bf16,*=int4` by pattern."""
    if "=" not in text:
        return {"*": text}
    pairs = [part.partition("=") for part in text.split(",")]
    if wrong := [pattern for pattern, equals, scheme in pairs if not (pattern and equals and scheme)]:
        raise CompileError(
            f"{wrong[0]!r} gives no scheme to a pattern", expected="pattern=scheme,pattern=scheme", found=text
        )
    return {pattern.strip(): scheme.strip() for pattern, _, scheme in pairs}


@cache
def families() -> dict[str, SchemeFamily]:
    """All families of schemes by name."""
    modules = (import_module(f"{quantization.__name__}.{i.name}") for i in pkgutil.iter_modules(quantization.__path__))
    found = [module.SCHEME for module in modules if hasattr(module, "SCHEME")]
    return {family.name: family for family in found}


def scheme(text: str) -> Scheme:
    """The scheme that a text such as `int4:g64:zeros` names.

    Raises:
        CompileError: there is no such scheme, or it has no such option.
    """
    name, *options = text.split(":")
    family = families().get(name)
    if family is None:
        raise CompileError(
            f"unknown quantization {text!r}",
            expected=", ".join(sorted(families())),
            found=text,
            fix="choose one of these, or add a scheme: see passes/quantization/int8.py",
        )
    if unknown := [option for option in options if option not in family.options]:
        known = "; ".join(f"{option}: {meaning}" for option, meaning in family.options.items())
        raise CompileError(
            f"quantization {name} has no option {unknown[0]!r}", expected=known or "no options", found=text
        )
    return family.make(text, options)


def whole_groups(group: int) -> Callable[[int, int], str | None]:
    """Refuses matrices whose columns do not divide into groups."""
    return lambda n, k: f"its {k} columns do not divide into groups of {group}" if k % group else None
