"""`@feed`: tokens of a step that were sampled by the one before it and never left the GPU.

    token_ids[t] = tokens[token_sources[t]]    where token_sources[t] >= 0

It lets the host launch a step before it knows the tokens of the last one. The entry has no counterpart in the
model's program: it belongs to the way in which this target is served, and writes into the step's own input.
"""

from __future__ import annotations

from dataclasses import dataclass

from warploom.codegen.cuda.architecture import CudaTarget
from warploom.codegen.cuda.kernel import Options, Pointer
from warploom.codegen.cuda.render import render
from warploom.ir.types import DType
from warploom.runtime.plan import Buffer, DimRange, Entry, Launch

FEED = "feed"


@dataclass(frozen=True, slots=True)
class FeedSpec:
    """Sampled tokens put where the next step reads them."""

    pdl: bool
    name: str = "feed_tokens"
    block: int = 256

    @property
    def operands(self) -> tuple[Pointer, ...]:
        """In place on `token_ids`."""
        return tuple(Pointer(name, DType.I32) for name in ("token_ids", "token_sources", "tokens"))

    @property
    def dims(self) -> tuple[str, ...]:
        """Tokens of the step."""
        return ("T",)

    @property
    def grid(self) -> tuple[str, int, int]:
        """One block for a decode step."""
        return f"(T + {self.block - 1}) // {self.block}", 1, 1

    @property
    def options(self) -> Options:
        """Two tokens for each thread."""
        return Options(num_warps=4, pdl=self.pdl)

    @property
    def flops(self) -> str:
        """None."""
        return "0"

    @property
    def bytes(self) -> str:
        """Sources, tokens read and written."""
        return "12 * T"

    def source(self) -> str:
        """The Triton module."""
        return render("feed_tokens.py.j2", spec=self)

    def __str__(self) -> str:
        return "tokens sampled by the last step as inputs of this one"


def feed_spec(target: CudaTarget) -> FeedSpec:
    """The kernel of `@feed`."""
    return FeedSpec(target.has_tma)


def feed_entry(spec: FeedSpec, num_tokens: DimRange, max_rows: int) -> Entry:
    """The entry: `token_ids` is updated in place.

    Args:
        num_tokens: T of `@step`.
        max_rows: most tokens that `@sample` gives.
    """
    x, y, z = spec.grid
    return Entry(
        dims={"T": num_tokens},
        externals=["token_ids", "token_sources", "tokens"],
        buffers=[
            Buffer("token_ids", "input", "i32", ["T"]),
            Buffer("token_sources", "input", "i32", ["T"]),
            Buffer("tokens", "input", "i32", [max_rows]),
            Buffer("token_ids", "result", "i32", ["T"], aliases="token_ids"),
        ],
        launches=[Launch(spec.name, ["token_ids", "token_sources", "tokens"], ["T"], x, FEED, [x, y, z])],
        arena_bytes=0,
    )
