"""The tokens of the answers in the making, as the compiled loop looks them up. Host side."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from nspjax.generate.answer import Answer
from nspjax.generate.model_steps import DecodeRows
from nspjax.generate.speculation.steps import SpeculatingRows


class TokenHistory:
    """Prompt and answer of each row, int32 [n_rows, capacity_tokens]; a call copies new tokens."""

    def __init__(self, n_rows: int, capacity_tokens: int) -> None:
        self._tokens = np.zeros((n_rows, capacity_tokens), np.int32)
        self._lengths = np.ones(n_rows, np.int32)  # an idle row's means nothing
        self._of: dict[int, Answer] = {}

    def operands(self, rows: DecodeRows, running: Mapping[int, Answer]) -> SpeculatingRows:
        """`rows` with what they may look up. Greedy rows propose, unless they ask for more."""
        proposes = np.zeros(len(self._lengths), np.bool_)
        for row, answer in running.items():
            self._update(row, answer)
            proposes[row] = answer.params.greedy and not answer.asks_more
        return SpeculatingRows(
            rows, jnp.array(self._tokens), jnp.array(self._lengths), jnp.asarray(proposes)
        )

    def _update(self, row: int, answer: Answer) -> None:
        n_prompt, n_tokens = len(answer.prompt), len(answer.token_ids)
        known = int(self._lengths[row]) - n_prompt
        if self._of.get(row) is not answer or not 0 <= known <= n_tokens:
            self._of[row] = answer
            self._tokens[row, :n_prompt] = answer.prompt
            known = 0
        self._tokens[row, n_prompt + known : n_prompt + n_tokens] = answer.token_ids[known:]
        self._lengths[row] = n_prompt + n_tokens
