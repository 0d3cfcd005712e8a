"""What is added to a row's logits before a token is chosen, inside jit."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array, lax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LogitTerms:
    """The terms of B rows. A row that asks for none keeps every bit of its logits.

    allowed: uint32 [B, ceil(V/32)], the tokens that may be chosen, packed as in `token_mask`.
    """

    allowed: Array


def with_terms(logits: Array, terms: LogitTerms) -> Array:
    """The logits from which a token is chosen; -inf where one may not be. float32 [B, V]."""
    return lax.cond(
        (terms.allowed != jnp.uint32(0xFFFFFFFF)).any(),
        lambda x: jnp.where(unpacked(terms.allowed, x.shape[-1]), x, -jnp.inf),
        lambda x: x,
        logits,
    )


def unpacked(words: Array, vocab_size: int) -> Array:
    """Sets of tokens as bool [B, V], from uint32 [B, ceil(V/32)]."""
    bits = (words[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & jnp.uint32(1)
    return bits.reshape(words.shape[0], -1)[:, :vocab_size] != 0
