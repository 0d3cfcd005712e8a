"""The model with its weights, its KV caches and its compiled functions.

Here, and nowhere else in nspjax.generate, it matters where the caches live.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nspjax.byte_size import format_bytes
from nspjax.errors import (
    InvalidArgumentError,
    StorageIOError,
    StoreClosedError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    engine_errors,
)
from nspjax.generate.beams.steps import Beams, BeamSettings, search
from nspjax.generate.kv_format import KVFormat
from nspjax.generate.model_steps import DecodeRows, PrefillRows, decode, prefill
from nspjax.generate.speculation.settings import NgramSpeculation
from nspjax.generate.speculation.steps import SpeculatingRows, speculate

if TYPE_CHECKING:
    from nspjax.compiler import Pipeline
    from nspjax.models import Decoder
    from nspjax.runtime import Store


class ModelRunner:
    """Runs prefill and decode calls on caches of `n_rows` rows of `capacity_tokens` each.

    After a call that failed, all rows are empty, unless `recover` says that they are not.

    Raises:
      StoreFullError: the caches do not fit; says what is needed and what fits.
    """

    def __init__(
        self,
        model: Decoder,
        *,
        store: Store | None,
        pipeline: Pipeline | None,
        n_rows: int,
        capacity_tokens: int,
        kv_format: KVFormat,
        share_prefixes: bool,
        steps_per_call: int,
        speculative: NgramSpeculation | None = None,
    ) -> None:
        self.steps_per_call = steps_per_call
        self._store = store
        self._share_prefixes = share_prefixes
        self._may_keep_x = pipeline is not None and pipeline.may_keep_x
        self._new_caches = functools.partial(
            _new_caches, model, store, n_rows, capacity_tokens, kv_format
        )
        graph, self._weights = nnx.split(model)

        def prefill_call(weights: Any, caches: Any, batch: PrefillRows) -> Any:
            return prefill(nnx.merge(graph, weights), caches, batch)

        def decode_call(weights: Any, caches: Any, batch: DecodeRows) -> Any:
            return decode(nnx.merge(graph, weights), caches, batch, max_steps=steps_per_call)

        def speculate_call(weights: Any, caches: Any, batch: SpeculatingRows) -> Any:
            assert speculative is not None, "it is asked for"
            model = nnx.merge(graph, weights)
            return speculate(model, caches, batch, speculative, max_steps=steps_per_call)

        def search_call(weights: Any, caches: Any, batch: tuple[BeamSettings, Beams]) -> Any:
            return search(nnx.merge(graph, weights), caches, batch)

        self._search = _compiled(search_call, store, pipeline)
        self._prefill = _compiled(prefill_call, store, pipeline)
        self._decode = _compiled(decode_call, store, pipeline)
        self._speculate = _compiled(speculate_call, store, pipeline)
        self._caches: list[Any] = self._new_caches()
        self._intact = True
        self._closed = False

    def prefill(self, batch: PrefillRows) -> np.ndarray:
        """The token after each row's piece, int32 [G]. See `model_steps.prefill`."""
        (token,) = self._run(self._prefill, batch)
        return token

    def decode(self, batch: DecodeRows) -> tuple[np.ndarray, np.ndarray]:
        """New tokens int32 [S, steps] and their counts int32 [S]. See `model_steps.decode`."""
        tokens, counts = self._run(self._decode, batch)
        return tokens, counts

    def speculate(self, batch: SpeculatingRows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """New tokens, their counts, and a tally. See `speculation.steps.speculate`."""
        tokens, counts, tally = self._run(self._speculate, batch)
        return tokens, counts, tally

    def search(self, settings: BeamSettings, beams: Beams) -> Beams:
        """Some steps of a beam search. See `beams.steps.search`."""
        (beams,) = self._run(self._search, (settings, beams))
        return beams

    def empty(self, rows: Sequence[int]) -> None:
        """Rows that share their tiles let go of them, all at once."""
        if self._store is None or not self._intact or self._closed:
            return
        for i, cache in enumerate(self._caches):
            lengths = np.array(self._store.current(cache).lengths)
            lengths[list(rows)] = 0
            self._caches[i] = self._store.cut(cache, lengths)

    def may_share(self, from_row: int, row: int) -> bool:
        """Whether a row may begin with another's tokens: in a store, if their heads lie alike."""
        return self._store is not None and self._share_prefixes and self.are_alike(from_row, row)

    def are_alike(self, from_row: int, row: int) -> bool:
        """Whether a row may go on from another."""
        if self._store is None:
            return True
        n_devices = len(self._store.devices())
        return (from_row - row) * self._caches[0].shape[2] % n_devices == 0

    def share_prefix(self, from_row: int, rows: Sequence[int], n_tokens: int) -> None:
        """Make the first tokens of a row the first and only ones of others."""
        assert self._store is not None
        self._check_usable()
        self._intact = False
        for i, cache in enumerate(self._caches):
            self._caches[i] = self._store.share_prefix(cache, from_row, rows, n_tokens)
        self._intact = True

    def recover(self) -> bool:
        """After a call that failed: take the rows back to where they were before it, except those
        that it began anew. False where that is impossible: in memory, or where rows may keep X."""
        if self._store is None or self._closed or self._may_keep_x:
            return False
        now = map(self._store.current, self._caches)
        self._caches = [
            cache.with_lengths(jnp.minimum(cache.lengths, before.lengths))
            for cache, before in zip(now, self._caches, strict=True)
        ]
        self._intact = True
        return True

    def unreadable(self, rows: Iterable[int]) -> dict[int, StoreError]:
        """Those of the rows that cannot be read back, and why."""
        assert self._store is not None
        found: dict[int, StoreError] = {}
        for row in rows:
            try:
                for cache in self._caches:
                    self._store.check_row(cache, row)
            except (StorageIOError, StoreDamagedError) as error:
                found[row] = error
        return found

    def close(self) -> None:
        """Give the caches' room back. Nothing runs afterwards."""
        self._closed = True
        with contextlib.suppress(StoreClosedError):  # which gave their room back
            self._drop_caches()

    def _run(self, call: Callable[..., Any], batch: Any) -> list[Any]:
        self._check_usable()
        self._intact = False  # until the call has returned: it consumes the caches
        with engine_errors():
            caches, *results = call(self._weights, self._caches, batch)
            arrays = jax.tree.map(np.asarray, results)
        self._caches, self._intact = caches, True
        return arrays

    def _check_usable(self) -> None:
        if self._closed:
            raise InvalidArgumentError("this LLM is closed: make another one")
        if not self._intact:
            self._drop_caches()
            self._caches = self._new_caches()

    def _drop_caches(self) -> None:
        if self._store is not None:
            for cache in self._caches:
                self._store.drop(cache)
        self._caches = []


def _compiled(
    fn: Callable[..., Any], store: Store | None, pipeline: Pipeline | None
) -> Callable[..., Any]:
    """fn(weights, caches, batch) compiled for caches in memory, or in the store."""
    if store is None:
        return jax.jit(fn, donate_argnames="caches")
    from nspjax.compiler import DEFAULT_PIPELINE, near_storage

    return near_storage(fn, store=store, pipeline=pipeline or DEFAULT_PIPELINE)


def _new_caches(
    model: Decoder,
    store: Store | None,
    n_rows: int,
    capacity_tokens: int,
    kv_format: KVFormat,
) -> list[Any]:
    dtype = kv_format.appended
    shapes = jax.eval_shape(lambda: model.init_caches(n_rows, capacity_tokens, dtype))
    if store is None:
        _check_memory(shapes, n_rows, capacity_tokens)
        return model.init_caches(n_rows, capacity_tokens, dtype)
    return store.kv_caches(
        len(shapes),
        batch=n_rows,
        capacity_tokens=capacity_tokens,
        n_kv_heads=shapes[0].k.shape[2],
        head_dim=shapes[0].k.shape[3],
        dtype=shapes[0].k.dtype,
        kv_dtype=kv_format.stored,
        interval_tokens=kv_format.interval_tokens,
    )


def _check_memory(shapes: list[Any], n_rows: int, capacity_tokens: int) -> None:
    """Refuse caches larger than the machine's memory, before the kernel ends the process."""
    if jax.default_backend() != "cpu":
        return  # an accelerator refuses by itself
    needed = sum(leaf.size * leaf.dtype.itemsize for cache in shapes for leaf in (cache.k, cache.v))
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        fits = there // (needed // n_rows)
        raise StoreFullError(
            f"a KV cache of {n_rows} rows x {capacity_tokens} tokens needs "
            f"{format_bytes(needed)} and the machine has {format_bytes(there)} of memory, room for "
            f"{fits} rows: lower max_num_seqs or max_model_len, or put the cache on storage "
            "with store="
        )
