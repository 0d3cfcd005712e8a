"""The compiled decode loop with speculation: a step verifies what was proposed, in one scan.

A row's last token and its drafts go through the model together; the drafts that the model would
have chosen itself are kept, and its own choice after the last of them. The cache is cut back to
what was kept. So a step gives 1 to num_speculative_tokens + 1 tokens of a row, for one reading of
what the row has.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from nspjax.generate.model_steps import Caches, DecodeRows
from nspjax.generate.sampling.choice import NOT_FINITE, choose, with_counted
from nspjax.generate.sampling.logprobs import Logprobs
from nspjax.generate.speculation.lookup import propose
from nspjax.generate.speculation.settings import NgramSpeculation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpeculatingRows:
    """Operands of one speculating decode call over all S cache rows.

    history: int32 [S, C], each row's prompt and answer so far, the last token included;
    length: int32 [S], how many tokens that is; proposes: bool [S], the rows that may.
    """

    rows: DecodeRows
    history: Array
    length: Array
    proposes: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Loop:
    """What a step hands on to the next. tally: int32 [3], see `speculate`."""

    caches: Caches
    history: Array
    length: Array
    active: Array
    n_new: Array
    tokens: Array
    tally: Array
    counts: Array | None
    logprobs: Logprobs | None


def speculate(
    model: Any,
    caches: Caches,
    batch: SpeculatingRows,
    settings: NgramSpeculation,
    *,
    max_steps: int,
) -> tuple[Caches, Array, Array, Logprobs | None, Array]:
    """Up to `n_steps` steps, at most max_steps, in every active row; it ends as `decode` does.

    Every step has the same shape, whatever was proposed, so that an answer does not depend on what
    its neighbours propose. Returns the caches, tokens int32 [S, max_steps (k + 1)], int32 [S], how
    many of them each row generated, logprobs [S, max_steps (k + 1)] where a row wants them, and
    int32 [3]: steps, drafts proposed, drafts kept.
    """
    rows, n_rows = batch.rows, batch.length.shape[0]
    width = settings.num_speculative_tokens + 1
    at = jnp.arange(width, dtype=jnp.int32)[None]  # [1, k + 1]
    each = jnp.arange(n_rows, dtype=jnp.int32)[:, None]

    def going(loop: _Loop) -> Array:
        return rows.goes_on(loop.tally[0], loop.active, max_steps)

    def one_step(loop: _Loop) -> _Loop:
        n_generated = rows.n_generated + loop.n_new
        drafts, n_drafts = propose(loop.history, loop.length, settings)
        most = jnp.maximum(rows.max_tokens - n_generated - 1, 0)
        n_drafts = jnp.where(batch.proposes & loop.active, jnp.minimum(n_drafts, most), 0)
        last = jnp.take_along_axis(loop.history, (loop.length - 1)[:, None], axis=1)
        hidden, caches = model(
            jnp.concatenate([last, drafts], axis=1),
            loop.caches,
            n_new=jnp.where(loop.active, 1 + n_drafts, 0),
        )
        logits = model.logits(hidden)  # [S, k + 1, V]
        first, logprobs = choose(logits[:, 0], rows.asked.counted(loop.counts), n_generated)
        chosen = jnp.concatenate([first[:, None], _most_likely(logits[:, 1:])], axis=1)
        agrees = (drafts == chosen[:, :-1]) & (at[:, :-1] < n_drafts[:, None])
        n_kept = jnp.cumprod(agrees.astype(jnp.int32), axis=1).sum(1)
        ends = (chosen[:, :, None] == rows.stop_tokens[:, None]).any(-1) | (chosen < 0)
        # up to the first with which the row ends; width where there is none
        until_end = jnp.where(ends, at, width).min(1) + 1
        n_tokens = jnp.where(loop.active, jnp.minimum(n_kept + 1, until_end), 0)
        active = loop.active & (until_end > n_tokens) & (n_generated + n_tokens < rows.max_tokens)
        gained = at < n_tokens[:, None]  # [S, k + 1]

        def put(into: Array, begin: Array) -> Array:
            place = jnp.where(gained, begin[:, None] + at, into.shape[1])
            return into.at[each, place].set(chosen, mode="drop")

        return _Loop(
            caches=[
                cache.cut(before.lengths + n_tokens)
                for cache, before in zip(caches, loop.caches, strict=True)
            ],
            history=put(loop.history, loop.length),
            length=loop.length + n_tokens,
            active=active,
            n_new=loop.n_new + n_tokens,
            tokens=put(loop.tokens, loop.n_new),
            tally=loop.tally
            + jnp.stack([jnp.int32(1), n_drafts.sum(), jnp.maximum(n_tokens - 1, 0).sum()]),
            counts=with_counted(loop.counts, first, loop.active),
            # who wants them proposes nothing, and so has one token a step
            logprobs=jax.tree.map(
                lambda all, x: all.at[each[:, 0], loop.n_new].set(x, mode="drop"),
                loop.logprobs,
                logprobs,
            ),
        )

    end = lax.while_loop(
        going,
        one_step,
        _Loop(
            caches=caches,
            history=batch.history,
            length=batch.length,
            active=rows.active,
            n_new=jnp.zeros((n_rows,), jnp.int32),
            tokens=jnp.zeros((n_rows, max_steps * width), jnp.int32),
            tally=jnp.zeros((3,), jnp.int32),
            counts=rows.asked.counts,
            logprobs=rows.asked.room_for_logprobs(
                (n_rows, max_steps * width), model.config.vocab_size
            ),
        ),
    )
    return end.caches, end.tokens, end.n_new, end.logprobs, end.tally


def _most_likely(logits: Array) -> Array:
    """int32 [...], or NOT_FINITE. logits: [..., V]"""
    token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jnp.where(jnp.isfinite(logits).all(-1), token, jnp.int32(NOT_FINITE))
