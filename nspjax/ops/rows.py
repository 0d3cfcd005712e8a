"""`take_rows`: rows of a KV cache that go on from one another, as one marked operation."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from nspjax.ops.transforms import without_transforms

TAKE_ROWS = "nspjax.take_rows"
"""The composite's name. Operands: cache.k, cache.v, order, lengths; results: cache.k, cache.v."""


def take_rows(k: Array, v: Array, order: Array, lengths: Array) -> tuple[Array, Array]:
    """The mark: k and v [S, C, Hkv, D] with row order[i] in the place of row i.

    order: int32 [S]; lengths: int32 [S], what each row holds before.
    """
    mark = lax.composite(_gathered, name=TAKE_ROWS, version=1)
    return without_transforms(mark, "take_rows", "give it all rows as one batch")(
        k, v, order, lengths
    )


def taken_lengths(order: Array, lengths: Array, capacity_tokens: int) -> Array:
    """int32 [S]: of the rows after `take_rows`. A row from one that does not exist is too long, so
    that attention over it is NaN."""
    exists = (order >= 0) & (order < lengths.shape[0])
    return jnp.where(exists, _of_rows(lengths, order), capacity_tokens + 1)


def _gathered(k: Array, v: Array, order: Array, lengths: Array) -> tuple[Array, Array]:
    """The reference: what a pass must preserve when it replaces the mark."""
    del lengths  # beyond which nothing of a row matters
    return _of_rows(k, order), _of_rows(v, order)


def _of_rows(values: Array, order: Array) -> Array:
    return values.at[order].get(mode="clip", wrap_negative_indices=False)
