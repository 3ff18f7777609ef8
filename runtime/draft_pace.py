"""How many drafts a request gets, by what became of the last ones."""

from __future__ import annotations

from dataclasses import dataclass

_WEIGHT = 0.25  # of the last verification in the mean
_LEAST_ACCEPTED = 0.5  # tokens for a verification to be worth it: it takes longer than a plain step
_FIRST_REST, _LONGEST_REST = 16, 256  # output tokens


@dataclass(slots=True)
class DraftPace:
    """The rule: after a verification that accepted all drafts, twice as many are made; else, one more than it accepted.
    Where a moving mean of accepted drafts falls below one in two verifications, the request rests for 16 tokens, then
    tries again with one draft; every rest in a row is twice as long, up to 256 tokens.

    Attributes:
        num_drafted, num_accepted: tokens, so far.
    """

    num_drafted: int = 0
    num_accepted: int = 0
    _length: int = 1 << 16
    _mean: float = 1.0
    _rest: int = _FIRST_REST
    _resumes_at: int = 0

    def length(self, num_tokens: int) -> int:
        """Return how many drafts a request of `num_tokens` tokens should get; 0: it rests."""
        return 0 if num_tokens < self._resumes_at else self._length

    def count(self, num_drafts: int, num_accepted: int) -> None:
        """Count drafts and what was accepted of them."""
        self.num_drafted += num_drafts
        self.num_accepted += num_accepted

    def verified(self, num_drafts: int, num_accepted: int, num_tokens: int) -> None:
        """Note what became of drafts.

        Args:
            num_tokens: of the request, now.
        """
        self._length = 2 * num_drafts if num_accepted == num_drafts else num_accepted + 1
        self._mean += _WEIGHT * (num_accepted - self._mean)
        if self._mean >= _LEAST_ACCEPTED:
            self._rest = _FIRST_REST
            return
        self._resumes_at = num_tokens + self._rest
        self._rest = min(2 * self._rest, _LONGEST_REST)
        self._length, self._mean = 1, _LEAST_ACCEPTED
