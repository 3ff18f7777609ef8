"""What kernels of tokens share: dims and grids; flops and bytes of a problem that tells them for a number of tokens."""

from __future__ import annotations

from typing import Protocol


class TokenProblem(Protocol):
    """Work as expressions over the number of tokens, which may be a dim's name or a number."""

    def flops(self, tokens: str) -> str: ...

    def bytes(self, tokens: str) -> str: ...


class OfTokens:
    """A kernel of any number of tokens."""

    __slots__ = ()
    problem: TokenProblem

    @property
    def dims(self) -> tuple[str, ...]:
        return ("T",)

    @property
    def flops(self) -> str:
        return self.problem.flops("T")

    @property
    def bytes(self) -> str:
        return self.problem.bytes("T")


class BlockOfToken:
    """A kernel that has one block for each token."""

    __slots__ = ()

    @property
    def dims(self) -> tuple[str, ...]:
        return ("T",)

    @property
    def grid(self) -> tuple[str, int, int]:
        return "T", 1, 1


class OfOneToken:
    """A kernel of one token."""

    __slots__ = ()
    problem: TokenProblem

    @property
    def dims(self) -> tuple[str, ...]:
        return ()

    @property
    def flops(self) -> str:
        return self.problem.flops("1")

    @property
    def bytes(self) -> str:
        return self.problem.bytes("1")
