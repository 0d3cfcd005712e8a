"""The choice of each row's next token, inside jit: with what some rows ask beyond `Sampling`.

A program is compiled for rows that ask for nothing more and another, when it is first needed, for
batches in which one does: so the others pay nothing while nobody asks. Both compute the logits
alike to the last bit, and what is chosen where a row asks for nothing is the same in both.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array, lax

from nspjax.generate.sampling.logit_terms import LogitTerms, with_terms
from nspjax.generate.sampling.sampler import Sampling, sample

NOT_FINITE = -1
"""In the place of a token: the row's logits are not all finite, so there is nothing to choose."""
NOTHING_ALLOWED = -2
"""In the place of a token: the row's terms allow none."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Asked:
    """What rows ask for. sampling: of all of them. terms: None where no row asks."""

    sampling: Sampling
    terms: LogitTerms | None


def choose(logits: Array, asked: Asked, n_generated: Array) -> Array:
    """The next token of each row; NOT_FINITE where its logits are not all finite.

    logits: float32 [B, V], the model's; n_generated: int32 [B], tokens generated before.
    Returns int32 [B], negative where there is no token.
    """
    # the same whoever uses them: nothing that follows is fused into the product that makes them
    logits = lax.optimization_barrier(logits)
    terms = asked.terms
    changed = logits if terms is None else with_terms(logits, terms)
    token = sample(changed, asked.sampling, n_generated)
    if terms is not None:
        token = jnp.where((changed > -jnp.inf).any(-1), token, jnp.int32(NOTHING_ALLOWED))
    # asked of each logit: XLA folds sums and products that would tell, such as (50 x) * 0
    return jnp.where(jnp.isfinite(logits).all(-1), token, jnp.int32(NOT_FINITE))
