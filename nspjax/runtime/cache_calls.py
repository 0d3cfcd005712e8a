"""The part of `Store` that is about KV caches: making, filling, reading and dropping them."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from nspjax.errors import InvalidArgumentError, StaleHandleError
from nspjax.ops.cache import KVCache, row_numbers
from nspjax.runtime.engine_values import engine_dtype, engine_kv_dtype, raw_elements
from nspjax.runtime.handle import StoredKVCache, handle_integers
from nspjax.runtime.stored_array import StoredArray

_CHECKED_TOKENS = 4096

Calls = TypeVar("Calls")
Options = ParamSpec("Options")


def _of_one_layer(
    make: Callable[Concatenate[Calls, int, Options], list[StoredKVCache]],
) -> Callable[Concatenate[Calls, Options], StoredKVCache]:
    """`kv_caches` for one layer, with the same keywords."""

    def kv_cache(self: Calls, *args: Options.args, **kwargs: Options.kwargs) -> StoredKVCache:
        """An empty cache of one layer, as `kv_caches` makes them."""
        return make(self, 1, *args, **kwargs)[0]

    return kv_cache


class CacheCalls:
    """What a store does with caches. `Store` opens the engine."""

    _engine: Any

    def kv_caches(
        self,
        n_layers: int,
        *,
        batch: int,
        capacity_tokens: int,
        n_kv_heads: int,
        head_dim: int,
        dtype: DTypeLike = jnp.bfloat16,
        kv_dtype: DTypeLike | None = None,
        interval_tokens: int | None = None,
        window_tokens: int | None = None,
        sketch: bool = False,
    ) -> list[StoredKVCache]:
        """Empty caches for all layers of a model, or none of them.

        Args:
          dtype: of the keys and values that are appended, and of a row's newest tokens.
          kv_dtype: of the tiles that are full, so of nearly all that is read: "int8", "int4", or a
            float dtype; None is `dtype`.
          interval_tokens: how many tokens a row gains between two writes to its device, a power of
            two up to 1024 (from 16 for int8 and int4); None chooses. A tile holds as many.
          window_tokens: of a row at least so many of the newest tokens are kept, older ones are
            dropped: room is for them and a tile or two more, whatever the capacity. Attentions
            need a window of at most that. None: all are kept.
          sketch: host memory keeps K's codes of all that is stored, in int4 or as they are stored,
            so that attention may read a part of V: docs/sparse.md says how much that is.

        Raises:
          StoreFullError: a device or the host-memory budget is too small; says what is needed,
            what there is, and how many rows would fit.
          InvalidArgumentError: a dtype or a size that the engine does not have.
        """
        if window_tokens is not None and window_tokens < 1:
            raise InvalidArgumentError(
                f"window_tokens is {window_tokens}: it must be 1 or more, or None for none"
            )
        shape = (batch, capacity_tokens, n_kv_heads, head_dim)
        ids = self._engine.create_caches(
            n_layers,
            *shape,
            engine_dtype(dtype),
            tile_tokens=interval_tokens or 0,
            kv_dtype=engine_kv_dtype(kv_dtype),
            window_tokens=window_tokens or 0,
            sketch=sketch,
        )
        return [
            StoredKVCache.new(self._engine.cache_handles(i, 0), shape, jnp.dtype(dtype))
            for i in ids
        ]

    kv_cache = _of_one_layer(kv_caches)

    def kv_pair(
        self, k: jax.Array | jax.ShapeDtypeStruct, v: jax.Array | jax.ShapeDtypeStruct
    ) -> tuple[StoredArray, StoredArray]:
        """What stands for the keys and values of one layer in a model that was written without
        nspjax: empty, of the shape and dtype of the given arrays [B, C, Hkv, D].

        Raises:
          InvalidArgumentError: they are no such arrays, differ, or hold something already.
          StoreFullError: as `kv_caches`.
        """
        for array in (k, v):
            if not isinstance(array, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
                raise InvalidArgumentError(
                    f"kv_pair needs arrays of keys and of values, got {reprlib.repr(array)}"
                )
        if len(k.shape) != 4 or (k.shape, k.dtype) != (v.shape, v.dtype):
            raise InvalidArgumentError(
                "kv_pair needs keys and values [B, C, Hkv, D] of one dtype, got "
                f"{k.dtype} {k.shape} and {v.dtype} {v.shape}"
            )
        self._engine.check_usable()
        if any(isinstance(a, jax.Array) and bool(jnp.any(a)) for a in (k, v)):
            raise InvalidArgumentError(
                "kv_pair makes an empty cache, but these arrays hold tokens: begin with zeros, and "
                "run the prompt through the near_storage function"
            )
        made = self._like(k)
        return (
            StoredArray(made.k, made.shape, made.dtype),
            StoredArray(made.v, made.shape, made.dtype),
        )

    def put(self, cache: KVCache) -> StoredKVCache:
        """A stored copy of an in-memory cache."""
        if not isinstance(cache, KVCache):
            raise InvalidArgumentError(
                f"put stores a copy of a KVCache in memory, got {reprlib.repr(cache)}"
            )
        made = self._like(cache.k)
        lengths = np.asarray(cache.lengths, np.int32)
        rows, start = np.arange(made.batch, dtype=np.int32), np.zeros(made.batch, np.int32)
        cache_id, version = self._read(made)
        version = self._engine.append(
            cache_id, version, raw_elements(cache.k), raw_elements(cache.v), rows, start, lengths
        )
        return made.with_handles(self._engine.cache_handles(cache_id, version), lengths)

    def fetch(self, cache: StoredKVCache) -> KVCache:
        """An in-memory copy of a stored cache: k, v [S, C, Hkv, D], zero where a row has nothing:
        beyond its length, and before what a window keeps.

        Raises:
          StaleHandleError: the cache has been appended to since.
        """
        cache_id, _ = self._check_current(cache)
        shape, bits = cache.shape, np.uint32 if cache.dtype.itemsize == 4 else np.uint16
        k, v = np.zeros(shape, bits), np.zeros(shape, bits)
        begins = self._engine.begins(cache_id)
        for row, (begin, end) in enumerate(
            zip(begins, np.asarray(cache.lengths).tolist(), strict=True)
        ):
            if begin < end:
                read = self._engine.read(cache_id, row, begin, end)
                k[row, begin:end], v[row, begin:end] = (part.view(bits) for part in read)
        keys, values = (jax.device_put(part.view(cache.dtype)) for part in (k, v))
        return KVCache(keys, values, jnp.array(cache.lengths, copy=True))

    def share_prefix(
        self, cache: StoredKVCache, from_row: int, rows: Sequence[int], n_tokens: int
    ) -> StoredKVCache:
        """The cache with the first `n_tokens` of a row as the first and only tokens of `rows`.

        Full tiles are shared, not copied, and one scan serves the queries of all rows that have
        them. A row that is cut back or starts over leaves the others what they share.

        Raises:
          StaleHandleError: the cache has been appended to since.
          InvalidArgumentError: no such row or tokens; or the rows' heads lie on different devices.
        """
        cache_id, version = self._check_current(cache)
        ids = np.asarray(rows, np.int32)
        version = self._engine.share_prefix(cache_id, version, from_row, ids, n_tokens)
        lengths = np.array(cache.lengths)
        lengths[ids] = n_tokens
        return cache.with_handles(self._engine.cache_handles(cache_id, version), lengths)

    def cut(self, cache: StoredKVCache, lengths: ArrayLike) -> StoredKVCache:
        """`StoredKVCache.cut`, at once: all rows give what is cut back in this call, so that rows
        which share it need no room beside one another when they start over.

        Raises:
          StaleHandleError: the cache has been appended to since.
          InvalidArgumentError: lengths are not integers [S], or negative.
        """
        cache_id, version = self._check_current(cache)
        kept = np.minimum(np.asarray(cache.cut(lengths).lengths), self._engine.lengths(cache_id))
        rows = np.arange(cache.batch, dtype=np.int32)
        version = self._engine.truncate(cache_id, version, rows, kept.astype(np.int32))
        return cache.with_handles(self._engine.cache_handles(cache_id, version), kept)

    def take_rows(self, cache: StoredKVCache, order: ArrayLike) -> StoredKVCache:
        """`KVCache.take_rows` outside of a compiled function: row i goes on as row order[i] was.

        Full tiles that several rows then have are shared, not copied; each has its own newest
        tokens.

        Raises:
          StaleHandleError: the cache has been appended to since.
          InvalidArgumentError: no such row; or the heads of two rows lie on different devices; or
            order are not integers [S].
        """
        cache_id, version = self._check_current(cache)
        rows, lengths = np.asarray(row_numbers(order, cache.batch)), np.asarray(cache.lengths)
        version = self._engine.take_rows(cache_id, version, rows, lengths)
        return cache.with_handles(self._engine.cache_handles(cache_id, version), lengths[rows])

    def fill_synthetic(self, cache: StoredKVCache, n_tokens: int) -> StoredKVCache:
        """The cache with `n_tokens` pseudo-random tokens in every row: for benches, no prefill."""
        cache_id, _ = self._check_current(cache)
        version = self._engine.fill_synthetic(cache_id, n_tokens)
        lengths = np.full(cache.batch, n_tokens, np.int32)
        return cache.with_handles(self._engine.cache_handles(cache_id, version), lengths)

    def current(self, cache: StoredKVCache) -> StoredKVCache:
        """The cache as the engine has it now: after a call that failed, whose results are lost.

        Its rows may hold more than before that call, and other layers' other numbers of tokens;
        what they held before is there, unless the call began rows anew: `with_lengths` cuts back.
        """
        _check_cache(cache)
        cache_id, _ = self._read(cache)
        handles = self._engine.cache_handles(cache_id, self._engine.version(cache_id))
        return cache.with_handles(handles, np.array(self._engine.lengths(cache_id), np.int32))

    def can_roll_back(self, cache: StoredKVCache, lengths: ArrayLike) -> bool:
        """Whether each row, cut back to `lengths` [S], has all that an attention sees: one with a
        window may have dropped some of it."""
        cache_id, _ = self._read(cache)
        return self._engine.can_truncate(cache_id, np.asarray(lengths, np.int32))

    def check_row(self, cache: StoredKVCache, row: int) -> None:
        """Read all that the engine has of a row, whatever version the handle is of.

        Raises:
          StorageIOError, StoreDamagedError: a part cannot be read, or its checksum is wrong; says
            where it lies.
        """
        cache_id, _ = self._read(cache)
        n_tokens = self._engine.lengths(cache_id)[row]
        for begin in range(self._engine.begins(cache_id)[row], n_tokens, _CHECKED_TOKENS):
            end = min(n_tokens, begin + _CHECKED_TOKENS)
            self._engine.read(cache_id, row, begin, end)

    def drop(self, cache: StoredKVCache | StoredArray) -> None:
        """Give the cache's room back; its handles are refused from now on.

        Raises:
          InvalidArgumentError: the cache is another store's.
        """
        self._engine.drop_cache(self._read(cache)[0])

    def _like(self, array: jax.Array | jax.ShapeDtypeStruct) -> StoredKVCache:
        """An empty cache for keys and values [B, C, Hkv, D] like these."""
        batch, capacity_tokens, n_kv_heads, head_dim = array.shape
        return self.kv_cache(
            batch=batch,
            capacity_tokens=capacity_tokens,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            dtype=array.dtype,
        )

    def _read(self, cache: StoredKVCache | StoredArray) -> tuple[int, int]:
        """The engine's number of a cache of this store, and the version of the handle."""
        if isinstance(cache, StoredArray):
            return self._engine.read_cache_handle(handle_integers(cache.handle))
        _check_cache(cache)
        return self._engine.read_cache_handles(handle_integers(cache.k), handle_integers(cache.v))

    def _check_current(self, cache: StoredKVCache) -> tuple[int, int]:
        """What `_read` gives, of a cache that has not been appended to since."""
        _check_cache(cache)
        cache_id, version = self._read(cache)
        if version != self._engine.version(cache_id):
            raise StaleHandleError(
                f"the KV cache handle is of version {version}, the cache is at version "
                f"{self._engine.version(cache_id)}: use the cache that the last call returned; "
                "with_lengths rolls it back"
            )
        return cache_id, version

    def _all_current(
        self, caches: Sequence[StoredKVCache]
    ) -> tuple[list[StoredKVCache], list[tuple[int, int]]]:
        """The caches of all layers, and what `_check_current` gives of each."""
        try:
            given = list(caches)
        except TypeError:
            raise InvalidArgumentError(
                f"caches are a list, one of each layer, got {reprlib.repr(caches)}"
            ) from None
        return given, list(map(self._check_current, given))


def _check_cache(cache: Any) -> None:
    """Refuse what is no cache in a store.

    Raises:
      InvalidArgumentError: says what it is.
    """
    if not isinstance(cache, StoredKVCache):
        raise InvalidArgumentError(
            f"a cache in a store is a StoredKVCache, got {reprlib.repr(cache)}: give it as the "
            "store or the last call returned it"
        )
