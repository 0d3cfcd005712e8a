"""The choice of each row's next token, inside jit: with what some rows ask beyond `Sampling`.

One program is compiled for rows that ask for nothing more and another, when it is first needed, for
batches in which a row does: so nobody pays while nobody asks. All compute the logits alike to the
last bit, and choose alike where a row asks for nothing.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array, lax

from nspjax.generate.sampling.logit_terms import LogitTerms, with_terms
from nspjax.generate.sampling.logprobs import Logprobs, logprobs_where_asked
from nspjax.generate.sampling.sampler import Sampling, sample

NOT_FINITE = -1
"""In the place of a token: the row's logits are not all finite, so there is nothing to choose."""
NOTHING_ALLOWED = -2
"""In the place of a token: the row's terms allow none."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class More:
    """What some rows ask for beyond `Sampling`. logprobs: bool [B], who wants them."""

    terms: LogitTerms
    logprobs: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Asked:
    """What B rows ask for. more: None where no row does."""

    sampling: Sampling
    more: More | None

    @property
    def counts(self) -> Array | None:
        """How often each row has each token, int32 [B, V]; None: nobody asks what depends on it."""
        if self.more is None or self.more.terms.penalties is None:
            return None
        return self.more.terms.penalties.counts

    def room_for_logprobs(self, shape: tuple[int, int], vocab_size: int) -> Logprobs | None:
        """Room for logprobs [B, steps]; None where `choose` gives none."""
        return None if self.more is None else Logprobs.zeros(shape, vocab_size)

    def counted(self, counts: Array | None) -> Asked:
        """The same where answers have `counts` of each token, int32 [B, V]; None: nobody counts."""
        if self.more is None or counts is None:
            return self
        more = dataclasses.replace(self.more, terms=self.more.terms.counted(counts))
        return dataclasses.replace(self, more=more)


def with_counted(counts: Array | None, token: Array, active: Array) -> Array | None:
    """The counts int32 [B, V], if any, after the tokens int32 [B] of the active rows."""
    if counts is None:
        return None
    rows = jnp.arange(token.shape[0])
    return counts.at[rows, token].add(active.astype(jnp.int32), mode="drop")


def choose(logits: Array, asked: Asked, n_generated: Array) -> tuple[Array, Logprobs | None]:
    """The next token of each row, int32 [B], and its logprobs; None where `more` is.

    logits: float32 [B, V], the model's; n_generated: int32 [B], tokens generated before.
    A number below 0 says why there is no token.
    """
    # made apart from what follows, which is not the same in all programs
    logits = lax.optimization_barrier(logits)
    # asked of each logit: XLA folds sums and products that would tell, such as (50 x) * 0
    finite = jnp.isfinite(logits).all(-1)
    if asked.more is None:
        token = sample(logits, asked.sampling, n_generated)
        return jnp.where(finite, token, jnp.int32(NOT_FINITE)), None
    changed = with_terms(logits, asked.more.terms, n_generated)
    token = sample(changed, asked.sampling, n_generated)
    token = jnp.where((changed > -jnp.inf).any(-1), token, jnp.int32(NOTHING_ALLOWED))
    token = jnp.where(finite, token, jnp.int32(NOT_FINITE))
    return token, logprobs_where_asked(token, logits, asked.more.logprobs)
