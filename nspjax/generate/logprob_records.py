"""Logprobs as they come from the compiled calls, and as vLLM's records. Host side, no JAX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nspjax.generate.outputs import Logprob

if TYPE_CHECKING:
    from nspjax.generate.sampling.logprobs import Logprobs
    from nspjax.generate.text.token_texts import TokenTexts


class LogprobRecords:
    """Of the tokens of one answer or prompt, with the `n_top` most likely ones at each place."""

    def __init__(self, n_top: int) -> None:
        self._n_top = n_top
        self._rows: list[tuple[float, int, list[int], list[float]]] = []

    def put(self, at: int, logprobs: Logprobs) -> bool:
        """From place `at` on there are these, arrays [n, ...]: what was there before is dropped.
        Returns whether all of them are finite."""
        del self._rows[at:]
        n = self._n_top
        self._rows += zip(
            logprobs.chosen.tolist(),
            logprobs.rank.tolist(),
            logprobs.top_tokens[:, :n].tolist(),
            logprobs.top[:, :n].tolist(),
            strict=True,
        )
        return bool(np.isfinite(logprobs.chosen).all())

    def total(self, n_tokens: int) -> float:
        """The logprob of the first tokens together."""
        return sum(row[0] for row in self._rows[:n_tokens])

    def of(self, tokens: Sequence[int], texts: TokenTexts) -> tuple[dict[int, Logprob], ...]:
        """A record for each of the tokens: the token itself, then the most likely ones.

        Raises:
          RequestError: the tokenizer fails at a token.
        """
        return tuple(
            {token: Logprob(chosen, rank, *texts[token])}
            | {
                other: Logprob(logprob, place, *texts[other])
                for place, (other, logprob) in enumerate(zip(top, values, strict=True), 1)
                if other != token
            }
            for token, (chosen, rank, top, values) in zip(tokens, self._rows, strict=False)
        )
