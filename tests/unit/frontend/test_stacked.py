"""Stacks of tensors: names spelled with braces, rows after one another, and a fallback for those that differ."""

from __future__ import annotations

import numpy as np
import pytest

from warploom.frontend.stacked import load_tensor, names_of, stack, stack_parts
from warploom.frontend.tensors import Array, LazyTensor


def lazy(name: str, value: Array, **more: tuple[LazyTensor, ...]) -> LazyTensor:
    return LazyTensor(
        name, value.shape, {"float32": "f32", "int8": "i8"}[value.dtype.name], "here", lambda: value, **more
    )


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.weight", ["a.weight"]),
        ("e.{0..2}.w", ["e.0.w", "e.1.w", "e.2.w"]),
        ("{9..10}.{up,down}", ["9.up", "9.down", "10.up", "10.down"]),
        ("x.{0..0}", ["x.0"]),
    ],
)
def test_patterns_spell_names_in_order(pattern: str, names: list[str]) -> None:
    assert names_of(pattern) == names


def test_rows_follow_one_another() -> None:
    values = [np.full((2, 3), i, np.float32) for i in range(4)]
    tensors = {name: lazy(name, value) for name, value in zip(names_of("{0..1}.{a,b}"), values, strict=True)}
    found = stack("{0..1}.{a,b}", list(tensors.values()))
    assert found is not None
    assert (found.shape, found.dtype) == ((8, 3), "f32")
    np.testing.assert_array_equal(found.load(), np.concatenate(values))
    np.testing.assert_array_equal(load_tensor(tensors, "{0..1}.{a,b}"), np.concatenate(values))
    np.testing.assert_array_equal(load_tensor(tensors, "1.a"), values[2])


def test_tensors_that_differ_are_no_stack() -> None:
    number = lazy("n", np.zeros((2, 3), np.int8))
    assert stack("{a,b}", [lazy("a", np.zeros((2, 3), np.float32)), number]) is None
    assert stack("{a,b}", [lazy(name, np.zeros((2, 3), np.float32), parts=(number,)) for name in "ab"]) is None


def test_parts_of_one_format_are_stacks() -> None:
    def quantized(name: str, *parts: str) -> LazyTensor:
        found = tuple(lazy(f"{name}.{part}", np.full((2, 3), ord(part[0]), np.int8)) for part in parts)
        return lazy(name, np.zeros((2, 3), np.float32), parts=found)

    both = [quantized(name, "q", "scale") for name in "ab"]
    q, scale = stack_parts("{a,b}", both)
    assert (q.name, q.shape, scale.name) == ("{a,b}.q", (4, 3), "{a,b}.scale")
    stored = {part.name: part for tensor in both for part in tensor.parts}
    np.testing.assert_array_equal(load_tensor(stored, scale.name), scale.load())
    assert stack_parts("{a,b}", [both[0], quantized("b", "q", "scale", "offset")]) == []
    assert stack_parts("{a,b}", [lazy(name, np.zeros((2, 3), np.float32)) for name in "ab"]) == []
