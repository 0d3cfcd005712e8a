"""The logarithms of tokens' probabilities, inside jit: of the model's own logits."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from nspjax.generate.sampling_params import MAX_LOGPROBS

_POSITIONS_AT_ONCE = 32
"""Of a prompt: the logits of so many are there at the same time."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Logprobs:
    """Of one token each, and of the most likely ones in its place, the likeliest first.

    chosen: float32 [...]; rank: int32 [...], 1 for the likeliest; top_tokens: int32 [..., K] and
    top: float32 [..., K]. K is MAX_LOGPROBS, or V if that is less.
    """

    chosen: Array
    rank: Array
    top_tokens: Array
    top: Array

    @staticmethod
    def zeros(shape: tuple[int, ...], vocab_size: int) -> Logprobs:
        k = min(MAX_LOGPROBS, vocab_size)
        one, several = jnp.zeros(shape, jnp.float32), jnp.zeros((*shape, k), jnp.float32)
        return Logprobs(one, one.astype(jnp.int32), several.astype(jnp.int32), several)


def logprobs_of(tokens: Array, logits: Array) -> Logprobs:
    """Of tokens int32 [B] by logits float32 [B, V]; a token below 0 counts as 0."""
    own = jnp.take_along_axis(logits, jnp.maximum(tokens, 0)[:, None], axis=1)
    top, top_tokens = lax.top_k(logits, min(MAX_LOGPROBS, logits.shape[-1]))
    # not the first of `top`: XLA then sorts all logits, which takes 500 times as long
    largest = logits.max(-1, keepdims=True)
    log_sum = largest + jnp.log(jnp.exp(logits - largest).sum(-1, keepdims=True))
    rank = 1 + (logits > own).sum(-1, dtype=jnp.int32)
    return Logprobs((own - log_sum)[:, 0], rank, top_tokens.astype(jnp.int32), top - log_sum)


def logprobs_where_asked(tokens: Array, logits: Array, wanted: Array) -> Logprobs:
    """`logprobs_of`, or zeros where no row of `wanted`, bool [B], is true."""
    return lax.cond(
        wanted.any(),
        lambda: logprobs_of(tokens, logits),
        lambda: Logprobs.zeros(tokens.shape, logits.shape[-1]),
    )


def prompt_logprobs(model: Any, hidden: Array, targets: Array) -> Logprobs:
    """Of targets int32 [G, T], the token after each position, by hidden [G, T, E]."""
    n_rows, n_tokens, width = hidden.shape
    found = lax.map(
        lambda position: _of_one(model, *position),
        (hidden.reshape(-1, width), targets.reshape(-1)),
        batch_size=min(_POSITIONS_AT_ONCE, n_rows * n_tokens),
    )
    return jax.tree.map(lambda x: x.reshape(n_rows, n_tokens, *x.shape[1:]), found)


def _of_one(model: Any, hidden: Array, target: Array) -> Logprobs:
    found = logprobs_of(target[None], model.logits(hidden[None]))
    return jax.tree.map(lambda x: x[0], found)
