"""Run on emulated cards: tiles that are shared, fetched, saved, loaded and damaged there.

    python moved_tiles_child.py DIRECTORY

Ends well if all is as in memory; a checksum is asked of what comes to the host, and only there.
"""

import os
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from engine_oracle import PlainCache, int32, normal

from nspjax import Store
from nspjax.errors import StoreDamagedError
from nspjax.ops.cache import KVCache

ROWS, CAPACITY, HEADS, HEAD_DIM, GROUP = 4, 640, 2, 32, 2
LENGTHS = [600, 0, 0, 90]
SHARED_TOKENS = 400


def check_attention(store, cache, plain):
    """Of each row's last tokens, against float64."""
    cache_id, version = store._engine.read_cache_handle(np.asarray(cache.k))
    lengths = plain.lengths.tolist()
    for n_tokens, window in ((1, 0), (5, 0), (70, 0), (1, 100)):
        q = normal(np.random.default_rng(1), (ROWS, n_tokens, HEADS * GROUP, HEAD_DIM))
        position = [max(length - n_tokens, 0) for length in lengths]
        got = store._engine.attend(
            cache_id, version, q, int32(range(ROWS)), int32(position), int32(lengths), scale=0.2,
            window=window,
        )  # fmt: skip
        wanted = plain.attend(q, range(ROWS), position, lengths, 0.2, window)
        for ours, exact in zip(got, wanted, strict=True):
            np.testing.assert_allclose(ours, exact, rtol=0, atol=2e-5)


def damage(directory):
    """A bit of the first tile in the file of a store there."""
    path = Path(directory, "nspjax.kv")
    at = 4096 + int(np.flatnonzero(np.fromfile(path, np.uint8, offset=4096))[0])
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1]), at)
        os.fsync(file.fileno())


def check_shared_and_fetched(store, k, v):
    """Returns a cache whose row 0 has all its tokens, and rows 1 and 2 its first ones."""
    plain = PlainCache.empty(ROWS, CAPACITY, HEADS, HEAD_DIM, "f32")
    plain.append(k, v, range(ROWS), [0] * ROWS, LENGTHS)
    cache = store.put(KVCache(jnp.asarray(k), jnp.asarray(v), jnp.asarray(LENGTHS, jnp.int32)))
    cache = store.share_prefix(cache, 0, [1, 2], SHARED_TOKENS)
    for row in (1, 2):
        plain.append(k[:1], v[:1], [row], [0], [SHARED_TOKENS])
    check_attention(store, cache, plain)
    fetched = store.fetch(cache)
    np.testing.assert_array_equal(fetched.k, plain.k)
    np.testing.assert_array_equal(fetched.v, plain.v)
    return cache


def check_loaded(store, path, k, v):
    """Row 0's tokens as row 3 of another cache."""
    made = store.kv_cache(
        batch=ROWS,
        capacity_tokens=CAPACITY,
        n_kv_heads=HEADS,
        head_dim=HEAD_DIM,
        dtype=jnp.float32,
    )
    (loaded,), n_tokens = store.load_prefix(path, [made], 3, model="m")
    assert n_tokens == LENGTHS[0]
    plain = PlainCache.empty(ROWS, CAPACITY, HEADS, HEAD_DIM, "f32")
    plain.append(k[:1], v[:1], [3], [0], [n_tokens])
    check_attention(store, loaded, plain)
    store.drop(loaded)


def main(directory):
    rng = np.random.default_rng(0)
    k, v = (normal(rng, (ROWS, CAPACITY, HEADS, HEAD_DIM)) for _ in "kv")
    with (
        Store("xrt:0,1", host_memory="16MiB", pinned=0) as cards,
        Store(directory, host_memory="16MiB", pinned=0) as files,
    ):
        cache = check_shared_and_fetched(cards, k, v)
        cards.save_prefix(directory / "prefix", [cache], 0, model="m")
        check_loaded(files, directory / "prefix", k, v)
        check_loaded(cards, directory / "prefix", k, v)
        assert cards.stats().bytes_read > 0

        cards.flush()
        cards.check_row(cache, 0)
        drive = os.environ["NSPJAX_XRT_PATH"].replace("{card}", "0")
        damage(drive)
        with pytest.raises(StoreDamagedError, match=drive):
            cards.check_row(cache, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
