"""The compiled functions of generation, prefill and the decode loop, and their operands.

All are pure JAX over ordinary KVCaches; where the caches live is the runner's choice.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from nspjax.generate.sampling.choice import Asked, choose, with_counted
from nspjax.generate.sampling.logprobs import Logprobs, prompt_logprobs
from nspjax.ops import KVCache

Caches = list[KVCache]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PrefillRows:
    """Operands of one prefill call over G rows.

    tokens: int32 [G, T]; rows: int32 [G], distinct cache rows; start: int32 [G], the place of
    tokens[:, 0] in its prompt; n_new: int32 [G], tokens that count, 0 for an idle row.
    targets: int32 [G, T], the prompt's token after each; None where nobody asks for its logprob.
    """

    tokens: Array
    rows: Array
    start: Array
    n_new: Array
    targets: Array | None = None


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

    def goes_on(self, n_done: Array, active: Array, max_steps: int) -> Array:
        """Whether a call has another step, after n_done of them, with these rows still active."""
        n_active = active.sum()
        finished = self.active.sum() - n_active
        in_time = n_done < jnp.minimum(self.n_steps, max_steps)
        return in_time & (n_active > 0) & (finished < self.leave_at)


def prefill(
    model: Any, caches: Caches, batch: PrefillRows
) -> tuple[Caches, Array, Logprobs | None]:
    """Append pieces of prompts to their rows.

    A row begins at `start` whatever it held before: that is how a finished row is used again.
    Returns the caches, the logits after each piece, float32 [G, V], and the logprobs of `targets`,
    [G, T]. What is said of padding, an unfinished prompt or an idle row means nothing.
    """
    rows, idle = batch.rows, batch.n_new == 0
    caches = [
        cache.with_lengths(
            cache.lengths.at[rows].set(jnp.where(idle, cache.lengths[rows], batch.start))
        )
        for cache in caches
    ]
    hidden, caches = model(batch.tokens, caches, rows=rows, n_new=batch.n_new)
    hidden = lax.optimization_barrier(hidden)  # the same bits whoever else uses it
    last = jnp.take_along_axis(hidden, jnp.maximum(batch.n_new - 1, 0)[:, None, None], axis=1)
    asked = None if batch.targets is None else prompt_logprobs(model, hidden, batch.targets)
    return caches, model.logits(last[:, 0]), asked


def first_tokens(logits: Array, asked: Asked) -> tuple[Array, Logprobs | None]:
    """The first token of each answer, from the logits after its prompt. A program of its own: what
    rows ask for is no reason to compile prefill again."""
    return choose(logits, asked, jnp.zeros(logits.shape[0], jnp.int32))


def decode(
    model: Any, caches: Caches, batch: DecodeRows, *, max_steps: int
) -> tuple[Caches, Array, Array, Logprobs | None]:
    """Generate up to `n_steps` tokens, at most max_steps, in every active row.

    A row goes on until a stop token, its max_tokens or, in the place of a token, a number below 0:
    there is none to choose (see `choose`). The loop ends early when no row is active, or `leave_at`
    rows have finished. Returns the caches, tokens int32 [S, max_steps], how many of them each row
    generated, int32 [S], and logprobs [S, max_steps] where a row wants them.
    """
    n_rows = batch.last_token.shape[0]

    def going(loop: _Loop) -> Array:
        return batch.goes_on(loop.step, loop.active, max_steps)

    def one_step(loop: _Loop) -> _Loop:
        step, active, last = loop.step, loop.active, loop.last_token
        n_generated = batch.n_generated + loop.n_new
        hidden, caches = model(last[:, None], loop.caches, n_new=active.astype(jnp.int32))
        asked = batch.asked.counted(loop.counts)
        token, logprobs = choose(model.logits(hidden[:, 0]), asked, n_generated)
        token = jnp.where(active, token, last)
        ends = (token[:, None] == batch.stop_tokens).any(-1) | (token < 0)
        ends |= n_generated + 1 >= batch.max_tokens
        return _Loop(
            step=step + 1,
            caches=caches,
            last_token=token,
            active=active & ~ends,
            n_new=loop.n_new + active.astype(jnp.int32),
            tokens=loop.tokens.at[:, step].set(token),
            counts=with_counted(loop.counts, token, active),
            logprobs=jax.tree.map(lambda all, x: all.at[:, step].set(x), loop.logprobs, logprobs),
        )

    shape = (n_rows, max_steps)
    end = lax.while_loop(
        going,
        one_step,
        _Loop(
            step=jnp.int32(0),
            caches=caches,
            last_token=batch.last_token,
            active=batch.active,
            n_new=jnp.zeros((n_rows,), jnp.int32),
            tokens=jnp.zeros(shape, jnp.int32),
            counts=batch.asked.counts,
            logprobs=batch.asked.room_for_logprobs(shape, model.config.vocab_size),
        ),
    )
    return end.caches, end.tokens, end.n_new, end.logprobs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Loop:
    """What a decode step hands on to the next."""

    step: Array
    caches: Caches
    last_token: Array
    active: Array
    n_new: Array
    tokens: Array
    counts: Array | None
    logprobs: Logprobs | None
