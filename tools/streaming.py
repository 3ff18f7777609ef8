"""An answer printed while it is made, and its speed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

from warploom.errors import EngineError
from warploom.runtime.output import Delta


@dataclass(frozen=True)
class Streamed:
    """One printed answer.

    Attributes:
        num_tokens: of the answer. first, last: `time.perf_counter()` when the first and the last token came.
    """

    text: str
    num_tokens: int
    first: float
    last: float

    @property
    def tokens_per_second(self) -> float:
        """Rate of the tokens after the first; 0 if there is only one."""
        return (self.num_tokens - 1) / (self.last - self.first) if self.last > self.first else 0.0


def print_stream(deltas: Iterable[Delta]) -> Streamed:
    """Print the pieces on stdout as they come, and a newline at the end.

    Raises:
        EngineError: the model's output was unusable; what came before it has been printed.
    """
    pieces: list[str] = []
    num_tokens, first, last = 0, 0.0, time.perf_counter()
    for delta in deltas:
        last = time.perf_counter()
        first = first or last
        num_tokens += len(delta.token_ids)
        pieces.append(delta.text)
        sys.stdout.write(delta.text)
        sys.stdout.flush()
        if delta.finish_reason == "abort":
            sys.stdout.write("\n")
            raise EngineError("The model's output was unusable", found=str(delta.stop_reason))
    sys.stdout.write("\n")
    sys.stdout.flush()
    return Streamed("".join(pieces), num_tokens, first or last, last)
