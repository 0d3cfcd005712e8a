"""The compiled functions of generation, prefill and the decode loop, and their operands.

All are pure JAX over ordinary KVCaches; where the caches live is the runner's choice.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from nspjax.generate.sampling.choice import Asked, choose
from nspjax.ops import KVCache

Caches = list[KVCache]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PrefillRows:
    """Operands of one prefill call over G rows.

    tokens: int32 [G, T]; rows: int32 [G], distinct cache rows; start: int32 [G], the place of
    tokens[:, 0] in its prompt; n_new: int32 [G], tokens that count, 0 for an idle row.
    """

    tokens: Array
    rows: Array
    start: Array
    n_new: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeRows:
    """Operands of one decode call over all S cache rows. An idle row is not `active`.

    last_token: int32 [S], generated but not in the cache yet; n_generated: int32 [S];
    max_tokens: int32 [S]; stop_tokens: int32 [S, K], -1 where there is none.
    leave_at: int32, return as soon as this many rows have finished; n_steps: int32, and after this
    many steps.
    """

    last_token: Array
    n_generated: Array
    max_tokens: Array
    active: Array
    stop_tokens: Array
    leave_at: Array
    n_steps: Array
    asked: Asked


def prefill(model: Any, caches: Caches, batch: PrefillRows) -> tuple[Caches, Array]:
    """Append pieces of prompts to their rows.

    A row begins at `start` whatever it held before: that is how a finished row is used again.
    Returns the caches and the logits after each piece, float32 [G, V]; those of an unfinished
    prompt or idle row mean nothing.
    """
    rows, idle = batch.rows, batch.n_new == 0
    caches = [
        cache.with_lengths(
            cache.lengths.at[rows].set(jnp.where(idle, cache.lengths[rows], batch.start))
        )
        for cache in caches
    ]
    hidden, caches = model(batch.tokens, caches, rows=rows, n_new=batch.n_new)
    last = jnp.take_along_axis(hidden, jnp.maximum(batch.n_new - 1, 0)[:, None, None], axis=1)
    return caches, model.logits(last[:, 0])


def first_tokens(logits: Array, asked: Asked) -> Array:
    """The first token of each answer, int32 [G], from the logits after its prompt. A program of
    its own: what rows ask for is no reason to compile prefill again."""
    return choose(logits, asked, jnp.zeros(logits.shape[0], jnp.int32))


def decode(
    model: Any, caches: Caches, batch: DecodeRows, *, max_steps: int
) -> tuple[Caches, Array, Array]:
    """Generate up to `n_steps` tokens, at most max_steps, in every active row.

    A row goes on until a stop token, its max_tokens or, in the place of a token, a number below 0:
    there is none to choose (see `choose`). The loop ends early when no row is active, or `leave_at`
    rows have finished. Returns the caches, tokens int32 [S, max_steps], and
    int32 [S], how many of them each row generated.
    """
    n_rows = batch.last_token.shape[0]
    n_at_first = batch.active.sum()
    n_steps = jnp.minimum(batch.n_steps, max_steps)

    def going(carry: tuple[Any, ...]) -> Array:
        step, _, _, active, _, _ = carry
        n_active = active.sum()
        finished = n_at_first - n_active
        return (step < n_steps) & (n_active > 0) & (finished < batch.leave_at)

    def one_step(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        step, caches, last, active, n_new, tokens = carry
        n_generated = batch.n_generated + n_new
        hidden, caches = model(last[:, None], caches, n_new=active.astype(jnp.int32))
        token = choose(model.logits(hidden[:, 0]), batch.asked, n_generated)
        token = jnp.where(active, token, last)
        tokens = tokens.at[:, step].set(token)
        ends = (token[:, None] == batch.stop_tokens).any(-1) | (token < 0)
        ends |= n_generated + 1 >= batch.max_tokens
        return step + 1, caches, token, active & ~ends, n_new + active.astype(jnp.int32), tokens

    _, caches, _, _, n_new, tokens = lax.while_loop(
        going,
        one_step,
        (
            jnp.int32(0),
            caches,
            batch.last_token,
            batch.active,
            jnp.zeros((n_rows,), jnp.int32),
            jnp.zeros((n_rows, max_steps), jnp.int32),
        ),
    )
    return caches, tokens, n_new
