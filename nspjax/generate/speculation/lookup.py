"""Proposals by n-gram lookup (Saxena, "Prompt Lookup Decoding", 2023; vLLM's method "ngram")."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from nspjax.generate.speculation.settings import NgramSpeculation


def propose(history: Array, length: Array, settings: NgramSpeculation) -> tuple[Array, Array]:
    """What followed each row's last tokens where the most of them stood before, the last time.

    history: int32 [S, C], a row's prompt and answer so far; length: int32 [S], how many tokens
    that is. Returns drafts, int32 [S, num_speculative_tokens], and int32 [S], how many of them
    count; 0 where fewer than prompt_lookup_min of the last tokens stood together before.
    """
    n_rows, capacity = history.shape
    at = jnp.arange(capacity, dtype=jnp.int32)[None]  # a place that what is found would go on from
    n_equal = jnp.zeros((n_rows, capacity), jnp.int32)
    equal = (at >= 1) & (at < length[:, None])
    for back in range(1, settings.prompt_lookup_max + 1):
        last = jnp.take_along_axis(history, jnp.maximum(length - back, 0)[:, None], axis=1)
        before = jnp.pad(history[:, :-back], ((0, 0), (back, 0)), constant_values=-1)
        equal &= before == last
        n_equal += equal
    place = jnp.argmax(n_equal * capacity + at, axis=1).astype(jnp.int32)
    found = jnp.take_along_axis(n_equal, place[:, None], axis=1)[:, 0]
    ahead = jnp.arange(settings.num_speculative_tokens, dtype=jnp.int32)[None]
    drafts = jnp.take_along_axis(history, jnp.minimum(place[:, None] + ahead, capacity - 1), axis=1)
    n_drafts = jnp.minimum(settings.num_speculative_tokens, length - place)
    return drafts, jnp.where(found >= settings.prompt_lookup_min, n_drafts, 0)
