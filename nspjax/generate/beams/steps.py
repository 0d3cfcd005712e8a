"""The compiled loop of a beam search: choices as `transformers` makes them (`num_beams`,
`length_penalty`, `early_stopping=False`), whose cache rows are taken from one another.

Beams are kept as tokens and, for each, the beam that it goes on from: nothing of a sequence is
copied at a step, and the host follows them back at the end.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from nspjax.generate.model_steps import Caches

UNLIKELY = -1.0e9
"""What transformers gives to what cannot be chosen."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BeamSettings:
    """Of one search.

    rows: int32 [G, W], the cache rows of G prompts' beams; begin: int32 [G], how many tokens of its
    prompt the first row of each has; end_tokens: int32 [E]; max_tokens: int32 [G]; most_steps:
    int32, of one call.
    """

    rows: Array
    begin: Array
    end_tokens: Array
    max_tokens: Array
    length_penalty: Array
    temperature: Array
    most_steps: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Beams:
    """G prompts' beams after `step` tokens.

    order: int32 [R], the cache row that each goes on from; last_token: int32 [R].
    scores: float32 [G, W], summed log-probabilities; tokens, parents: int32 [N, G, W], each step's.
    found, found_scores, found_sums: [G, W], the best sequences that have ended: whether there is
    one, its rank, its sum; found_step, found_parent, found_token: int32 [G, W], how it ended.
    going: bool [G]; finite: bool [G], whether all logits were.
    """

    step: Array
    order: Array
    last_token: Array
    scores: Array
    tokens: Array
    parents: Array
    found: Array
    found_scores: Array
    found_sums: Array
    found_step: Array
    found_parent: Array
    found_token: Array
    going: Array
    finite: Array


def first_beams(rows: Array, last_tokens: Array, used: Array, n_rows: int, capacity: int) -> Beams:
    """Before the first step: all beams of a prompt are its first row, and one of them counts.

    last_tokens: int32 [G], of the prompts; used: bool [G], the groups that have one.
    """
    shape = rows.shape
    nothing = jnp.zeros(shape, jnp.int32)
    each = jnp.arange(n_rows, dtype=jnp.int32)
    first = jnp.broadcast_to(rows[:, :1], shape)
    return Beams(
        step=jnp.int32(0),
        order=each.at[rows].set(jnp.where(used[:, None], first, rows)),
        last_token=jnp.zeros((n_rows,), jnp.int32).at[rows].set(last_tokens[:, None]),
        scores=jnp.zeros(shape).at[:, 1:].set(UNLIKELY),
        tokens=jnp.zeros((capacity, *shape), jnp.int32),
        parents=jnp.zeros((capacity, *shape), jnp.int32),
        found=jnp.zeros(shape, bool),
        found_scores=jnp.full(shape, UNLIKELY),
        found_sums=jnp.zeros(shape),
        found_step=nothing,
        found_parent=nothing,
        found_token=nothing,
        going=used,
        finite=jnp.ones(shape[:1], bool),
    )


def search(model: Any, caches: Caches, batch: tuple[BeamSettings, Beams]) -> tuple[Caches, Beams]:
    """Up to `most_steps` steps of all prompts that are not done."""
    settings, beams = batch
    first_row = settings.rows[:, 0]
    begins = beams.going & (beams.step == 0)
    caches = [
        cache.with_lengths(
            cache.lengths.at[first_row].set(
                jnp.where(begins, settings.begin, cache.lengths[first_row])
            )
        )
        for cache in caches
    ]
    end = beams.step + settings.most_steps

    def one_step(carry: tuple[Caches, Beams]) -> tuple[Caches, Beams]:
        caches, beams = carry
        caches = [cache.take_rows(beams.order) for cache in caches]
        active = (
            jnp.zeros_like(beams.order)
            .at[settings.rows]
            .set(beams.going[:, None].astype(jnp.int32))
        )
        hidden, caches = model(beams.last_token[:, None], caches, n_new=active)
        logits = model.logits(hidden[settings.rows, 0])  # [G, W, V]
        return caches, _chosen(settings, beams, logits)

    return lax.while_loop(
        lambda carry: carry[1].going.any() & (carry[1].step < end), one_step, (caches, beams)
    )


def _chosen(settings: BeamSettings, beams: Beams, logits: Array) -> Beams:
    """The next beams, from the logits after each, float32 [G, W, V]."""
    n_groups, width, vocab_size = logits.shape
    n_candidates = max(2, 1 + settings.end_tokens.shape[0]) * width
    heat = jnp.where(settings.temperature > 0, settings.temperature, 1.0)
    scores = jax.nn.log_softmax(logits / heat, axis=-1) + beams.scores[:, :, None]
    sums, index = _largest(scores.reshape(n_groups, -1), min(n_candidates, width * vocab_size))
    parent, token = index // vocab_size, index % vocab_size
    n_tokens = beams.step + 1
    is_end = (token[:, :, None] == settings.end_tokens).any(-1)
    stops = is_end | (n_tokens >= settings.max_tokens[:, None])

    next_scores, which = _largest(jnp.where(stops, sums + UNLIKELY, sums), width)
    next_token, next_parent = (jnp.take_along_axis(x, which, 1) for x in (token, parent))

    # only what is among the best `width` may be a sequence that is returned
    length = n_tokens.astype(jnp.float32) ** settings.length_penalty
    ends = stops & (jnp.arange(sums.shape[1]) < width)
    ranks = jnp.where(ends, sums / length, UNLIKELY)
    merged = {
        "found_scores": ranks,
        "found": ends,
        "found_sums": sums,
        "found_step": jnp.broadcast_to(beams.step, sums.shape),
        "found_parent": parent,
        "found_token": token,
    }
    merged = {name: jnp.concatenate([getattr(beams, name), new], 1) for name, new in merged.items()}
    _, best = _largest(merged["found_scores"], width)
    found = {name: jnp.take_along_axis(values, best, 1) for name, values in merged.items()}

    # what runs may still become better than the worst that has ended, at its present length
    worst = jnp.where(found["found"], found["found_scores"].min(1, keepdims=True), UNLIKELY)
    can_improve = (next_scores[:, :1] / length > worst).any(1)
    was_going = beams.going
    finite = jnp.isfinite(logits).all((1, 2)) | ~was_going
    going = was_going & can_improve & ~stops.all(1) & finite
    taken = jnp.take_along_axis(settings.rows, next_parent, 1)
    each = jnp.arange(beams.order.shape[0], dtype=jnp.int32)
    old = {name: getattr(beams, name) for name in found}
    return dataclasses.replace(
        beams,
        step=n_tokens,
        order=each.at[settings.rows].set(jnp.where(going[:, None], taken, settings.rows)),
        last_token=beams.last_token.at[settings.rows].set(next_token),
        scores=next_scores,
        tokens=beams.tokens.at[beams.step].set(next_token),
        parents=beams.parents.at[beams.step].set(next_parent),
        going=going,
        finite=beams.finite & finite,
        **{name: jnp.where(was_going[:, None], found[name], old[name]) for name in found},
    )


def _largest(values: Array, k: int) -> tuple[Array, Array]:
    """The k largest of each row, the largest first, and where they are."""
    found, index = lax.top_k(values, k)
    return found, index.astype(jnp.int32)
