"""Typed access to the metadata of a GGUF file, with errors that name the key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np

from warploom.errors import CheckpointError
from warploom.frontend.gguf_file import GGUFFile, Value

T = TypeVar("T", int, float, str)


@dataclass(frozen=True)
class Metadata:
    """The keys of `file` that begin with `prefix`.

    Every method takes a key without the prefix and gives its value, or `default` when the file has no such key; it
    raises CheckpointError when the key is absent and has no default, or when its value has another type.
    """

    file: GGUFFile
    prefix: str

    def __contains__(self, key: str) -> bool:
        return self.prefix + key in self.file.metadata

    def size(self, key: str, default: int | None = None) -> int:
        """A positive integer."""
        value = self.integer(key, default)
        if value <= 0:
            raise self.unusable(key, "a positive integer", value)
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer; a list that repeats one integer (one per layer) counts as that integer."""
        value = self._get(key, default)
        if isinstance(value, list) and value and all(item == value[0] for item in value):
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.unusable(key, "one integer", value)
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A finite number, as the shortest decimal that rounds to the stored f32 (1e-05, not 9.9999997e-06)."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise self.unusable(key, "a finite number", value)
        return float(str(np.float32(value)))

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.unusable(key, "a string", value)
        return value

    def flag(self, key: str, default: bool) -> bool:
        """A boolean."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.unusable(key, "true or false", value)
        return value

    def items(self, key: str, kind: type[T], length: int | None = None) -> Sequence[T]:
        """A list of values of one kind, of `length` elements when that is given."""
        values = self._get(key, None)
        if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
            raise self.unusable(key, f"a list of {kind.__name__}", values)
        if length is not None and len(values) != length:
            raise self.unusable(key, f"{length} elements", f"{len(values)} elements")
        return cast(list[T], values)

    def unusable(self, key: str, expected: str, found: Value) -> CheckpointError:
        """The error for a value that no working model has at `key`."""
        return CheckpointError(
            f"metadata {self.prefix}{key} in {self.file.path} is not usable",
            expected=expected,
            found=repr(found)[:80],
            fix="convert the model again with a current llama.cpp, or download it again",
        )

    def _get(self, key: str, default: Value | None) -> Value:
        value = self.file.metadata.get(self.prefix + key, default)
        if value is None:
            raise CheckpointError(
                f"GGUF file {self.file.path} lacks metadata",
                expected=self.prefix + key,
                found=f"{len(self.file.metadata)} other keys",
                fix="convert the model again with a current llama.cpp",
            )
        return value
