"""What a request asks of its tokens' logits, on the host: the same for all of its answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from nspjax.generate.sampling.token_mask import NewMask, packed
from nspjax.generate.sampling_params import SamplingParams

ALWAYS = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class BiasTerm:
    """`value` is added to the logit of `token` while fewer than `before` tokens are generated."""

    token: int
    value: float
    before: int = ALWAYS


@dataclasses.dataclass(frozen=True)
class RequestTerms:
    """allowed: the only tokens that may be chosen, packed as in `token_mask`; None: all. prompt:
    the tokens of the prompt, packed, where there is a penalty. new_mask: makes what says, token by
    token, which may come next; None: nothing does."""

    allowed: np.ndarray | None = None
    bias: tuple[BiasTerm, ...] = ()
    prompt: np.ndarray | None = None
    new_mask: NewMask | None = None

    @staticmethod
    def of(
        params: SamplingParams,
        prompt: Sequence[int],
        vocab_size: int,
        *,
        ends: Iterable[int],
        barred: Iterable[int] = (),
        new_mask: NewMask | None = None,
    ) -> RequestTerms:
        """ends: the tokens with which an answer ends. barred: those that it may not have."""
        allowed = params.allowed_token_ids
        bias = [BiasTerm(token, value) for token, value in (params.logit_bias or {}).items()]
        bias += [BiasTerm(token, -np.inf) for token in barred]
        if params.min_tokens:
            bias += [BiasTerm(token, -np.inf, params.min_tokens) for token in ends]
        return RequestTerms(
            allowed=None if allowed is None else packed(allowed, vocab_size),
            bias=tuple(bias),
            prompt=packed(set(prompt), vocab_size) if params.penalizes else None,
            new_mask=new_mask,
        )

    @property
    def asks(self) -> bool:
        """Whether a row with these terms is not as all others."""
        return bool(self.bias) or any(
            term is not None for term in (self.allowed, self.prompt, self.new_mask)
        )
