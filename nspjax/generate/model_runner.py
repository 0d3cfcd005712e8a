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
from nspjax.generate.compiled_call import CompiledCall, Compiling
from nspjax.generate.kv_format import KVFormat
from nspjax.generate.model_steps import (
    DecodeRows,
    PrefillRows,
    decode,
    first_tokens,
    prefill,
)
from nspjax.generate.sampling.choice import Asked
from nspjax.generate.sampling.logprobs import Logprobs
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
        compiling: Compiling = contextlib.nullcontext,
    ) -> None:
        self.steps_per_call = steps_per_call
        self._store = store
        self._share_prefixes = share_prefixes
        self.vocab_size = model.config.vocab_size
        self._may_keep_x = pipeline is not None and pipeline.may_keep_x
        # tiles that rows share, X, and what a draft may be cut back from are kept whole
        sketch = pipeline is not None and pipeline.needs_sketches
        may_drop = not (share_prefixes or self._may_keep_x or sketch or speculative is not None)
        self._new_caches = functools.partial(
            _new_caches, model, store, n_rows, capacity_tokens, kv_format, may_drop, sketch
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

        self._prefill = CompiledCall(prefill_call, store, pipeline, compiling)
        self._decode = CompiledCall(decode_call, store, pipeline, compiling)
        self._speculate = CompiledCall(speculate_call, store, pipeline, compiling)
        self._search = CompiledCall(search_call, store, pipeline, compiling)
        self._first_tokens = jax.jit(first_tokens)
        self._caches: list[Any] = self._new_caches()
        self._intact = True
        self._closed = False

    def prefill(
        self, batch: PrefillRows, asked: Asked
    ) -> tuple[np.ndarray, Logprobs | None, Logprobs | None]:
        """The token after each row's piece, int32 [G]; its logprobs [G], and those of the prompt's
        tokens [G, T], where they are asked for. See `model_steps.prefill`."""
        logits, of_prompt = self._run(self._prefill, batch)
        return jax.tree.map(np.asarray, (*self._first_tokens(logits, asked), of_prompt))

    def decode(self, batch: DecodeRows) -> tuple[np.ndarray, np.ndarray, Logprobs | None]:
        """New tokens int32 [S, steps], their counts int32 [S], and their logprobs [S, steps] where
        they are asked for. See `model_steps.decode`."""
        return jax.tree.map(np.asarray, tuple(self._run(self._decode, batch)))

    def speculate(
        self, batch: SpeculatingRows
    ) -> tuple[np.ndarray, np.ndarray, Logprobs | None, np.ndarray]:
        """What `decode` returns, and a tally. See `speculation.steps.speculate`."""
        return jax.tree.map(np.asarray, tuple(self._run(self._speculate, batch)))

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
        that it began anew. False where that is impossible: in memory, where rows may keep X, or
        where a window has dropped what is seen from there."""
        if self._store is None or self._closed or self._may_keep_x:
            return False
        now = [self._store.current(cache) for cache in self._caches]
        lengths = [
            jnp.minimum(cache.lengths, before.lengths)
            for cache, before in zip(now, self._caches, strict=True)
        ]
        if not all(map(self._store.can_roll_back, now, lengths)):
            return False
        self._caches = [cache.with_lengths(n) for cache, n in zip(now, lengths, strict=True)]
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
            jax.block_until_ready(results)
        self._caches, self._intact = caches, True
        return results

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


def _new_caches(
    model: Decoder,
    store: Store | None,
    n_rows: int,
    capacity_tokens: int,
    kv_format: KVFormat,
    may_drop: bool,
    sketch: bool,
) -> list[Any]:
    dtype = kv_format.appended
    shapes = jax.eval_shape(lambda: model.init_caches(n_rows, capacity_tokens, dtype))
    if store is None:
        _check_memory(shapes, n_rows, capacity_tokens)
        return model.init_caches(n_rows, capacity_tokens, dtype)
    window_tokens = _window_tokens(model, capacity_tokens)
    if sketch and window_tokens is not None:
        raise InvalidArgumentError(
            f"all layers see a window of {window_tokens} tokens, which attention reads anyway: "
            "leave sparsify out, or attention="
        )
    return store.kv_caches(
        len(shapes),
        batch=n_rows,
        capacity_tokens=capacity_tokens,
        n_kv_heads=shapes[0].k.shape[2],
        head_dim=shapes[0].k.shape[3],
        dtype=shapes[0].k.dtype,
        kv_dtype=kv_format.stored,
        interval_tokens=kv_format.interval_tokens,
        window_tokens=window_tokens if may_drop else None,
        sketch=sketch,
    )


def _window_tokens(model: Decoder, capacity_tokens: int) -> int | None:
    """How many of the newest tokens all layers see, if that is less than a row may have."""
    config = model.config
    windows = {config.layer_window_tokens(layer) for layer in range(config.n_layers)}
    window = windows.pop()
    return window if not windows and window is not None and window < capacity_tokens else None


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
