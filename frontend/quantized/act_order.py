"""Groups of columns that are no neighbours: GPTQ's `desc_act`, which compressed-tensors calls `actorder: group`.

A tensor `g_idx` [k] names the group of each column. Sorted by group, columns that share a scale are neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from warploom.frontend.tensors import Array, LazyTensor


@dataclass
class Orders:
    """The orders of a checkpoint's modules; those that are equal are one tensor, named by the first module."""

    known: dict[bytes, LazyTensor] = field(default_factory=dict)

    def find(self, path: str, indices: LazyTensor | None) -> LazyTensor | None:
        """The order in which the columns of a module are sorted by group, or None where they are already."""
        order = None if indices is None else np.argsort(indices.load(), kind="stable").astype(np.int32)
        if indices is None or order is None or np.array_equal(order, np.arange(len(order))):
            return None
        made = LazyTensor(f"{path}.input_order", order.shape, "i32", indices.source, partial(np.asarray, order))
        return self.known.setdefault(order.tobytes(), made)


def are_even(indices: Array, groups: int) -> bool:
    """Whether every group has equally many columns, so that a place in the sorted order tells its group."""
    sizes = np.bincount(indices.astype(np.int64), minlength=groups)
    return len(sizes) == groups and bool((sizes * groups == len(indices)).all())
