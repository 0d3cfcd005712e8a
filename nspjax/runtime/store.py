"""`Store`: where KV caches live, on one or several near-storage devices."""

from __future__ import annotations

import functools
import os
import reprlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from nspjax.byte_size import parse_bytes
from nspjax.errors import InvalidArgumentError
from nspjax.runtime.cache_calls import CacheCalls
from nspjax.runtime.engine_values import engine_rates
from nspjax.runtime.handle import StoredKVCache, handle_integers, own_buffer
from nspjax.runtime.rate_limit import RateLimit
from nspjax.runtime.rates import Rates, measure_rates
from nspjax.runtime.stats import DeviceInfo, StoreStats, record_from
from nspjax.runtime.stored_array import StoredArray
from nspjax.runtime.stored_weight import StoredWeight, offload, weight_bytes
from nspjax.runtime.targets import register_targets
from nspjax.runtime.trace import Span, save_chrome_trace, trace_events


class Store(CacheCalls):
    """KV caches on near-storage devices.

    A device is a directory (the cache lies in one file in it, read and written with O_DIRECT),
    "memory:", or a card that attends beside its own drive (docs/smartssd.md). With several, (row,
    KV head) units are spread evenly over them.

    Args:
      devices: directories, or "file:DIR", "memory:", "xrt:0,1?xclbin=FILE&path=/mnt/ssd{card}".
      host_memory: one budget for staging buffers, the tails of all rows, and pinned tiles, the
        first ones of every row, which stay in memory. docs/store.md says how it is split.
      threads: attention workers; 0 is one a core.
      io: "uring", "pread", or "auto": io_uring where it is built in and allowed.
      kernel: "avx512", "avx2", "scalar", or "auto": the best this CPU has.
      checksums: verify every tile that is read from a device; without, damage goes unnoticed.
      trace_events: how many of the newest reads, writes, waits and computations `trace` has.
      rate_limit: simulated bandwidths of devices and link, for experiments.
      pinned: how much of host_memory pinned tiles may take at most; None is what is left.
      x_share: the part of host_memory, up to 0.9, that is set aside for X-caches. With 0 they get
        some of what is free when the first is made.

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

    # ---- saved prefixes -------------------------------------------------------------------------

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

        caches, handles = self._all_current(caches)
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

        caches, handles = self._all_current(caches)
        return load_prefix(self._engine, path, caches, handles, row, model)

    # ---- weights --------------------------------------------------------------------------------

    def put_weight(self, array: jax.Array | np.ndarray) -> StoredWeight:
        """A stored copy of an array, to be passed to a `near_storage` function in its place.

        Raises:
          StoreFullError: the directories, or host_memory, have too little room.
          InvalidArgumentError: an array of something else than numbers, or of less than bytes.
        """
        if not isinstance(array, jax.Array | np.ndarray):
            raise InvalidArgumentError(f"put_weight takes an array, got {reprlib.repr(array)}")
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
        if not isinstance(weight, StoredWeight):
            raise InvalidArgumentError(f"no weight in a store: {reprlib.repr(weight)}")
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

    def save_trace(self, path: str | os.PathLike[str], spans: Iterable[Span] = ()) -> None:
        """Write them as JSON for Perfetto (ui.perfetto.dev) or chrome://tracing. spans: what else
        was going on.

        Raises:
          StorePathError, StoreFullError, StorageIOError: the file cannot be written, or is none.
        """
        save_chrome_trace(path, self.trace(), spans=spans)

    def check_owns(self, stored: StoredKVCache | StoredArray | StoredWeight) -> None:
        """Refuse what is no cache or weight of this store.

        Raises:
          InvalidArgumentError: it is another store's, or was computed with.
        """
        if isinstance(stored, StoredWeight):
            self._engine.read_weight_handle(handle_integers(stored.handle))
        else:
            self._read(stored)

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
