"""What changes a row's logits before a token is chosen, inside jit; in vLLM's order."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array, lax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bias:
    """Values that are added to single tokens' logits. -inf bars a token.

    tokens: int32 [B, K], V where there is none; values: float32 [B, K]; before: int32 [B, K], only
    while fewer tokens than this have been generated.
    """

    tokens: Array
    values: Array
    before: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Penalties:
    """presence, frequency, repetition: float32 [B], as in `SamplingParams`; prompt: uint32
    [B, ceil(V/32)], the prompt's tokens, packed; counts: int32 [B, V], how often the answer has
    each token when the call begins."""

    presence: Array
    frequency: Array
    repetition: Array
    prompt: Array
    counts: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogitTerms:
    """The terms of B rows. A row that asks for none keeps every bit of its logits.

    allowed: uint32 [B, ceil(V/32)], the tokens that may be chosen, packed as in `token_mask`.
    penalties: None where no row has one.
    """

    allowed: Array
    bias: Bias
    penalties: Penalties | None

    def counted(self, counts: Array) -> LogitTerms:
        """The terms where the answers have `counts` of each token."""
        assert self.penalties is not None
        penalties = dataclasses.replace(self.penalties, counts=counts)
        return dataclasses.replace(self, penalties=penalties)


def with_terms(logits: Array, terms: LogitTerms, n_generated: Array) -> Array:
    """The logits from which a token is chosen; -inf where one may not be. float32 [B, V].

    n_generated: int32 [B], the tokens of each answer so far.
    """
    bias, penalties = terms.bias, terms.penalties
    logits = lax.cond(
        (terms.allowed != jnp.uint32(0xFFFFFFFF)).any(),
        lambda x: jnp.where(unpacked(terms.allowed, x.shape[-1]), x, -jnp.inf),
        lambda x: x,
        logits,
    )
    logits = lax.cond(
        (bias.tokens < logits.shape[-1]).any(),
        lambda x: _biased(x, bias, n_generated),
        lambda x: x,
        logits,
    )
    return logits if penalties is None else _penalized(logits, penalties)


def unpacked(words: Array, vocab_size: int) -> Array:
    """Sets of tokens as bool [B, V], from uint32 [B, ceil(V/32)]."""
    bits = (words[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & jnp.uint32(1)
    return bits.reshape(words.shape[0], -1)[:, :vocab_size] != 0


def _biased(logits: Array, bias: Bias, n_generated: Array) -> Array:
    values = jnp.where(n_generated[:, None] < bias.before, bias.values, 0.0)
    rows = jnp.arange(logits.shape[0])[:, None]
    return logits.at[rows, bias.tokens].add(values, mode="drop")


def _penalized(logits: Array, penalties: Penalties) -> Array:
    said = penalties.counts > 0
    seen = said | unpacked(penalties.prompt, logits.shape[-1])
    factor = penalties.repetition[:, None]
    repeated = jnp.where(logits > 0, logits / factor, logits * factor)
    logits = jnp.where(seen, repeated, logits)
    logits = logits - penalties.frequency[:, None] * penalties.counts.astype(jnp.float32)
    return logits - jnp.where(said, penalties.presence[:, None], 0.0)
