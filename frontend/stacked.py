"""Tensors of a checkpoint that are read as one: the rows of all of them after one another.

Experts are many and alike; one tensor for all of a layer keeps programs small (48 layers of 128 experts have 18,432
tensors). The name of a stack spells the names of its tensors as shells do: `experts.{0..127}.{gate,up}_proj.weight`,
the first brace outermost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from warploom.frontend.tensors import Array, LazyTensor

_BRACE = re.compile(r"\{([^{}]*)\}")


def names_of(pattern: str) -> list[str]:
    """The names that a pattern spells, in order."""
    found = _BRACE.search(pattern)
    if found is None:
        return [pattern]
    before, after = pattern[: found.start()], names_of(pattern[found.end() :])
    return [before + choice + rest for choice in _choices(found[1]) for rest in after]


def _choices(text: str) -> list[str]:
    """`0..3` or `a,b`."""
    first, dots, last = text.partition("..")
    return [str(number) for number in range(int(first), int(last) + 1)] if dots else text.split(",")


def stack(pattern: str, tensors: Sequence[LazyTensor]) -> LazyTensor | None:
    """The tensors of a pattern as one, or None if they cannot be read so: they differ in dtype, or have parts."""
    first = tensors[0]
    if any(t.parts or t.dtype != first.dtype or t.shape[1:] != first.shape[1:] for t in tensors):
        return None
    rows = sum(tensor.shape[0] for tensor in tensors)

    def read() -> Array:
        return np.concatenate([tensor.load() for tensor in tensors])

    return LazyTensor(pattern, (rows, *first.shape[1:]), first.dtype, first.source, read)


def stack_parts(pattern: str, tensors: Sequence[LazyTensor]) -> list[LazyTensor]:
    """The parts of quantized tensors, each as one; none if they are not all quantized in one format."""
    suffixes = {tuple(part.name.removeprefix(tensor.name) for part in tensor.parts) for tensor in tensors}
    if len(suffixes) > 1:
        return []
    found = [stack(pattern + end, [t.parts[i] for t in tensors]) for i, end in enumerate(next(iter(suffixes)))]
    return [part for part in found if part is not None] if None not in found else []


def load_tensor(tensors: Mapping[str, LazyTensor], name: str) -> Array:
    """The data of a tensor or of a stack."""
    if name in tensors:
        return tensors[name].load()
    return np.concatenate([tensors[each].load() for each in names_of(name)])
