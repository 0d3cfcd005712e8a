"""A decoder as a pure function, and the calls of a greedy decode with it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax import nnx


def last_logits(graph):
    """step(state, tokens [B, T], caches, n_new [B]) -> (logits [B, V] after each row's last new
    token, caches), for the graph of `nnx.split(decoder)`."""

    def step(state, tokens, caches, n_new):
        model = nnx.merge(graph, state)
        hidden, caches = model(tokens, caches, n_new=n_new)
        last = jnp.take_along_axis(hidden, (n_new - 1)[:, None, None], axis=1)
        return model.logits(last[:, 0]), caches

    return step


def greedy_calls(step, state, caches, tokens, n_new, n_steps):
    """(tokens, n_new, logits) of a ragged prefill and n_steps more calls."""
    n_new = jnp.array(n_new, jnp.int32)
    calls = []
    for _ in range(1 + n_steps):
        logits, caches = step(state, tokens, caches, n_new)
        calls.append((tokens, n_new, np.asarray(logits)))
        tokens = jnp.asarray(logits.argmax(-1), jnp.int32)[:, None]
        n_new = jnp.ones_like(n_new)
    return calls
