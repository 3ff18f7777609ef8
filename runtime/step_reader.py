"""What a step gave, read row by row: tokens, log-probabilities, and rows that hold neither."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from warploom.runtime.device import StepOutput
from warploom.runtime.request import Request, TokenLogprobs


class StepReader:
    """One step's output.

    Attributes:
        tokens: by row.
        unusable: rows that are no token of the vocabulary with a log-probability, and what they are.
    """

    def __init__(self, output: StepOutput, vocab_size: int) -> None:
        self.tokens: list[int] = output.tokens.tolist()
        self.unusable: dict[int, str] = {}
        self._output = output
        usable = np.isfinite(output.logprobs) & (output.tokens.view(np.uint32) < vocab_size)  # a negative id is large
        if not usable.all():
            for row in np.flatnonzero(~usable).tolist():
                found = f"the model gave token {self.tokens[row]} with log-probability {output.logprobs[row]}"
                self.unusable[row] = found

    def logprobs_of(self, row: int, wanted: int) -> TokenLogprobs:
        """Return a row's token with its log-probability and the `wanted` likeliest ones."""
        output, token = self._output, self.tokens[row]
        top: tuple[tuple[int, float], ...] = ()
        if wanted and output.top_tokens is not None and output.top_logprobs is not None:
            top_tokens, top_logprobs = output.top_tokens[row, :wanted], output.top_logprobs[row, :wanted]
            top = tuple(zip(top_tokens.tolist(), top_logprobs.tolist(), strict=True))
        return TokenLogprobs(token, dict(top).get(token, float(output.logprobs[row])), top)

    def score(self, scored: Sequence[tuple[Request, int]], first: int) -> None:
        """Give requests the log-probabilities of their prompts' tokens, in the rows from `first` on.

        A row whose token is not the prompt's says that this one is impossible (or that the logits are unusable).
        """
        row = first
        for request, num_rows in scored:
            for _ in range(num_rows):
                token = request.token_ids[len(request.prompt_logprobs) + 1]
                entry = self.logprobs_of(row, request.params.prompt_logprobs or 0)
                if row in self.unusable or entry.token_id != token:
                    entry = TokenLogprobs(token, -np.inf, entry.top)
                request.prompt_logprobs.append(entry)
                row += 1
