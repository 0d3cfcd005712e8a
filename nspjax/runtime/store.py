"""`Store`: where KV caches live, on one or several near-storage devices."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from nspjax.byte_size import parse_bytes
from nspjax.errors import InvalidArgumentError, StaleHandleError
from nspjax.ops.cache import KVCache
from nspjax.runtime.engine_values import (
    engine_dtype,
    engine_kv_dtype,
    engine_rates,
    raw_elements,
)
from nspjax.runtime.handle import StoredKVCache, handle_integers, own_buffer
from nspjax.runtime.rate_limit import RateLimit
from nspjax.runtime.rates import Rates, measure_rates
from nspjax.runtime.stats import DeviceInfo, StoreStats, record_from
from nspjax.runtime.stored_array import StoredArray
from nspjax.runtime.stored_weight import StoredWeight, offload, weight_bytes
from nspjax.runtime.targets import register_targets
from nspjax.runtime.trace import save_chrome_trace, trace_events

_CHECKED_TOKENS = 4096


class Store:
    """KV caches on near-storage devices.

    A device is a directory (the cache lies in one file in it, read and written with O_DIRECT),
    "memory:", or a card that attends beside its own drive (docs/smartssd.md). With several, (row,
    KV head) units are spread evenly over them.

    Args:
      devices: directories, or "file:DIR", "memory:", "xrt:0,1?xclbin=FILE&path=/mnt/ssd{card}".
      host_memory: one budget: a quarter of it at most for staging buffers, then the tails of all
        rows, and the rest for pinned tiles, the first ones of every row, which stay in memory.
      threads: attention workers; 0 is one a core.
      io: "uring", "pread", or "auto": io_uring where it is built in and allowed.
      kernel: "avx512", "avx2", "scalar", or "auto": the best this CPU has.
      checksums: verify every tile that is read from a device; without, damage goes unnoticed.
      trace_events: how many of the newest reads, writes, waits and computations `trace` has.
      rate_limit: simulated bandwidths of devices and link, for experiments.
      pinned: how much of host_memory pinned tiles may take at most; None is what is left.
      x_share: the part of host_memory, up to 0.9, that is kept for X-caches. With 0 they get, when
        the first is made, half of what is free then: about a sixteenth.

    Raises:
      StorePathError, StoreBusyError, StoreFullError, StoreDamagedError: the device cannot be used,
        and why. A file system without O_DIRECT gives a warning and is used through the page cache.
      AcceleratorError: a card, its runtime or its kernel cannot be used, and why.

    A store is its process's: in a child that was forked, close does nothing and everything else
    raises StoreClosedError. Open one there, or start processes with multiprocessing's "spawn" or
    "forkserver" method.
    """

    def __init__(
        self,
        *devices: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        host_memory: str | int = "4GiB",
        threads: int = 0,
        io: str = "auto",
        kernel: str = "auto",
        checksums: bool = True,
        pinned: str | int | None = None,
        trace_events: int = 65536,
        rate_limit: RateLimit | None = None,
        x_share: float = 0.0,
        _fault: str = "",
    ) -> None:
        from nspjax import _engine

        if not devices:
            raise InvalidArgumentError('a Store needs a device: a directory, or "memory:"')
        self._engine = _engine.Store(
            list(devices),
            parse_bytes(host_memory),
            threads=threads,
            io=io,
            kernel=kernel,
            checksums=checksums,
            pinned_bytes=-1 if pinned is None else parse_bytes(pinned, least=0),
            trace_events=trace_events,
            **engine_rates(rate_limit),
            fault=_fault,
            x_share=x_share,
        )
        self.rate_limit = rate_limit
        for text in self._engine.warnings():
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        register_targets()

    # ---- caches ---------------------------------------------------------------------------------

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
    ) -> list[StoredKVCache]:
        """Empty caches for all layers of a model, or none of them.

        Args:
          dtype: of the keys and values that are appended, and of a row's newest tokens.
          kv_dtype: of the tiles that are full, so of nearly all that is read: "int8", "int4", or a
            float dtype; None is `dtype`.
          interval_tokens: how many tokens a row gains between two writes to its device, a power of
            two up to 1024 (from 16 for int8 and int4); None chooses. A tile holds as many.

        Raises:
          StoreFullError: a device or the host-memory budget is too small; says what is needed,
            what there is, and how many rows would fit.
          InvalidArgumentError: a dtype or a size that the engine does not have.
        """
        shape = (batch, capacity_tokens, n_kv_heads, head_dim)
        ids = self._engine.create_caches(
            n_layers,
            *shape,
            engine_dtype(dtype),
            tile_tokens=interval_tokens or 0,
            kv_dtype=engine_kv_dtype(kv_dtype),
        )
        return [
            StoredKVCache.new(self._engine.cache_handles(i, 0), shape, jnp.dtype(dtype))
            for i in ids
        ]

    def kv_cache(
        self,
        *,
        batch: int,
        capacity_tokens: int,
        n_kv_heads: int,
        head_dim: int,
        dtype: DTypeLike = jnp.bfloat16,
        kv_dtype: DTypeLike | None = None,
        interval_tokens: int | None = None,
    ) -> StoredKVCache:
        """An empty cache of one layer, as `kv_caches` makes them."""
        return self.kv_caches(
            1,
            batch=batch,
            capacity_tokens=capacity_tokens,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            dtype=dtype,
            kv_dtype=kv_dtype,
            interval_tokens=interval_tokens,
        )[0]

    def kv_pair(
        self, k: jax.Array | jax.ShapeDtypeStruct, v: jax.Array | jax.ShapeDtypeStruct
    ) -> tuple[StoredArray, StoredArray]:
        """What stands for the keys and values of one layer in a model that was written without
        nspjax: empty, of the shape and dtype of the given arrays [B, C, Hkv, D].

        Raises:
          InvalidArgumentError: they are no such arrays, differ, or hold something already.
          StoreFullError: as `kv_caches`.
        """
        if len(k.shape) != 4 or (k.shape, k.dtype) != (v.shape, v.dtype):
            raise InvalidArgumentError(
                "kv_pair needs keys and values [B, C, Hkv, D] of one dtype, got "
                f"{k.dtype} {k.shape} and {v.dtype} {v.shape}"
            )
        self.check_usable()
        if any(isinstance(a, jax.Array) and bool(jnp.any(a)) for a in (k, v)):
            raise InvalidArgumentError(
                "kv_pair makes an empty cache, but these arrays hold tokens: begin with zeros, and "
                "run the prompt through the near_storage function"
            )
        batch, capacity, heads, head_dim = k.shape
        made = self.kv_cache(
            batch=batch,
            capacity_tokens=capacity,
            n_kv_heads=heads,
            head_dim=head_dim,
            dtype=k.dtype,
        )
        return (
            StoredArray(made.k, made.shape, made.dtype),
            StoredArray(made.v, made.shape, made.dtype),
        )

    def put(self, cache: KVCache) -> StoredKVCache:
        """A stored copy of an in-memory cache."""
        batch, capacity, heads, head_dim = cache.k.shape
        made = self.kv_cache(
            batch=batch,
            capacity_tokens=capacity,
            n_kv_heads=heads,
            head_dim=head_dim,
            dtype=cache.k.dtype,
        )
        lengths = np.asarray(cache.lengths, np.int32)
        rows, start = np.arange(batch, dtype=np.int32), np.zeros(batch, np.int32)
        cache_id, version = self._read(made)
        version = self._engine.append(
            cache_id, version, raw_elements(cache.k), raw_elements(cache.v), rows, start, lengths
        )
        return made.with_handles(self._engine.cache_handles(cache_id, version), lengths)

    def fetch(self, cache: StoredKVCache) -> KVCache:
        """An in-memory copy of a stored cache: k, v [S, C, Hkv, D], zero beyond each length.

        Raises:
          StaleHandleError: the cache has been appended to since.
        """
        cache_id, _ = self._check_current(cache)
        shape, bits = cache.shape, np.uint32 if cache.dtype.itemsize == 4 else np.uint16
        k, v = np.zeros(shape, bits), np.zeros(shape, bits)
        for row, n_tokens in enumerate(np.asarray(cache.lengths)):
            if n_tokens:
                read = self._engine.read(cache_id, row, 0, int(n_tokens))
                k[row, :n_tokens], v[row, :n_tokens] = (part.view(bits) for part in read)
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

    def save_prefix(
        self,
        path: str | os.PathLike[str],
        caches: Sequence[StoredKVCache],
        row: int,
        n_tokens: int | None = None,
        *,
        model: str,
    ) -> None:
        """Keep the first tokens of a row, in all layers, in a file for `load_prefix`.

        The file has its name when it is whole and on its medium; until then what had the name
        stays. What a killed process leaves is removed by the next save in the directory. Only this
        user may read it; what is there is replaced only if it is a plain file of this user, whose
        mode, if it is stricter, stays.

        Args:
          caches: of all layers, alike.
          n_tokens: how many; None is all that the row has.
          model: what keys and values depend on, in the caller's words: for example the checkpoint's
            name and revision, and its rope settings. It must be the same when they are loaded.

        Raises:
          StaleHandleError: a cache has been appended to since.
          StorePathError, StoreBusyError, StoreFullError, StorageIOError: the file cannot be
            written, and why; nothing of it is left.
          StoreDamagedError: a tile that the file was to have.
        """
        from nspjax.runtime.saved_prefix import save_prefix  # loads the engine

        caches = list(caches)
        handles = list(map(self._check_current, caches))
        save_prefix(self._engine, path, caches, handles, row, n_tokens, model)

    def load_prefix(
        self,
        path: str | os.PathLike[str],
        caches: Sequence[StoredKVCache],
        row: int,
        *,
        model: str,
    ) -> tuple[list[StoredKVCache], int]:
        """The caches with a saved prefix as all that `row` has, and its number of tokens.

        The bits are those that were saved, whatever devices each store has. If it fails half-way,
        the row is empty in all layers, and the caches given stay good.

        Raises:
          InvalidArgumentError: the prefix is of another `model`, or of caches of another shape,
            dtype, kv_dtype or interval_tokens; names both sides.
          StoreDamagedError: the file is cut, damaged or not ours; says where.
          StorePathError, StorageIOError, StoreFullError: it cannot be read, or is no plain file of
            this user (a link, say); or the row cannot be written.
          StaleHandleError: a cache has been appended to since.
        """
        from nspjax.runtime.saved_prefix import load_prefix

        caches = list(caches)
        handles = list(map(self._check_current, caches))
        return load_prefix(self._engine, path, caches, handles, row, model)

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
        cache_id, _ = self._read(cache)
        handles = self._engine.cache_handles(cache_id, self._engine.version(cache_id))
        return cache.with_handles(handles, np.array(self._engine.lengths(cache_id), np.int32))

    def check_row(self, cache: StoredKVCache, row: int) -> None:
        """Read all that the engine has of a row, whatever version the handle is of.

        Raises:
          StorageIOError, StoreDamagedError: a part cannot be read, or its checksum is wrong; says
            where it lies.
        """
        cache_id, _ = self._read(cache)
        n_tokens = self._engine.lengths(cache_id)[row]
        for begin in range(0, n_tokens, _CHECKED_TOKENS):
            end = min(n_tokens, begin + _CHECKED_TOKENS)
            self._engine.read(cache_id, row, begin, end)

    def drop(self, cache: StoredKVCache | StoredArray) -> None:
        """Give the cache's room back; its handles are refused from now on.

        Raises:
          InvalidArgumentError: the cache is another store's.
        """
        self._engine.drop_cache(self._read(cache)[0])

    def check_owns(self, stored: StoredKVCache | StoredArray | StoredWeight) -> None:
        """Refuse what is no cache or weight of this store.

        Raises:
          InvalidArgumentError: it is another store's, or was computed with.
        """
        if isinstance(stored, StoredWeight):
            self._engine.read_weight_handle(handle_integers(stored.handle))
        else:
            self._read(stored)

    def _read(self, cache: StoredKVCache | StoredArray) -> tuple[int, int]:
        """The engine's number of a cache of this store, and the version of the handle."""
        if isinstance(cache, StoredArray):
            return self._engine.read_cache_handle(handle_integers(cache.handle))
        return self._engine.read_cache_handles(handle_integers(cache.k), handle_integers(cache.v))

    def _check_current(self, cache: StoredKVCache) -> tuple[int, int]:
        """What `_read` gives, of a cache that has not been appended to since."""
        cache_id, version = self._read(cache)
        if version != self._engine.version(cache_id):
            raise StaleHandleError(
                f"the KV cache handle is of version {version}, the cache is at version "
                f"{self._engine.version(cache_id)}: use the cache that the last call returned; "
                "with_lengths rolls it back"
            )
        return cache_id, version

    # ---- weights --------------------------------------------------------------------------------

    def put_weight(self, array: jax.Array | np.ndarray) -> StoredWeight:
        """A stored copy of an array, to be passed to a `near_storage` function in its place.

        Raises:
          StoreFullError: the directories, or host_memory, have too little room.
          InvalidArgumentError: an array of something else than numbers, or of less than bytes.
        """
        number = self._engine.put_weight(weight_bytes(array))
        handle = own_buffer(self._engine.weight_handle(number))
        return StoredWeight(handle, tuple(array.shape), jnp.dtype(array.dtype))

    def offload_weights(self, tree: Any, resident: str | int = "4GiB") -> Any:
        """A model's weights with some arrays as they are and the others as StoredWeights.

        Arrays stay in memory up to `resident` bytes: see `resident_weights` for which.
        """
        return offload(tree, parse_bytes(resident, least=0), self.put_weight)

    def drop_weight(self, weight: StoredWeight) -> None:
        """Give its room back; programs that load it are refused from now on."""
        self._engine.drop_weight(self._engine.read_weight_handle(handle_integers(weight.handle)))

    # ---- the store itself -----------------------------------------------------------------------

    @property
    def id(self) -> int:
        """The number of this store in this process."""
        return self._engine.id

    def devices(self) -> list[DeviceInfo]:
        return [record_from(DeviceInfo, device) for device in self._engine.devices()]

    def stats(self) -> StoreStats:
        return record_from(StoreStats, self._engine.stats())

    @functools.cached_property
    def rates(self) -> Rates | None:
        """What the devices, the link and the compute device do a second, measured once. None, with
        a warning that says why: how fast a device is read is not known."""
        with jax.transfer_guard("allow"):  # nothing of the caller's is transferred
            return measure_rates(self)

    def trace(self) -> np.ndarray:
        """The newest events, an array of `runtime.trace.TRACE_DTYPE`, as they began."""
        return trace_events(self._engine.trace())

    def save_trace(self, path: str | os.PathLike[str]) -> None:
        """Write them as JSON for Perfetto (ui.perfetto.dev) or chrome://tracing.

        Raises:
          StorePathError, StoreFullError, StorageIOError: the file cannot be written, or is none.
        """
        save_chrome_trace(path, self.trace())

    def flush(self) -> None:
        """Wait until every write has reached its device."""
        self._engine.flush()

    def check_usable(self) -> None:
        """Refuse a store that cannot be used here.

        Raises:
          StoreClosedError: it was closed, or opened by the process that this one was forked from.
        """
        self._engine.check_usable()

    def close(self) -> None:
        """Give up the devices and the room on them; handles are refused from now on.

        Does nothing in a process that was forked from the store's.
        """
        self._engine.close()

    def __reduce__(self) -> NoReturn:
        raise InvalidArgumentError(
            "a Store cannot be copied, or sent to another process: open one there, on a directory "
            "of its own"
        )

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
