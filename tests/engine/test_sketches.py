"""What host memory keeps of stored tiles, and what sparse attention reads of the rest."""

import contextlib

import numpy as np
import pytest
from engine_oracle import bits, fill, int32, normal
from sparse_cases import MEMORY, ask, peaked, sketched

from nspjax.errors import InvalidArgumentError, StoreDamagedError, StoreFullError


def test_less_is_read_than_all(open_store):
    """Pages of V, and no K: by the device's own count."""
    store = open_store(1, host_memory=MEMORY)
    cache, version = sketched(store)
    store.flush()
    before = store.stats()["bytes_read"]
    ask(store, cache, version, mass=0.9, budget=0.1, block_tokens=32)
    read = store.stats()["bytes_read"] - before
    ask(store, cache, version)
    dense = store.stats()["bytes_read"] - before - read
    assert dense == 2 * 2 * 2 * 1024 * 64 * 2  # rows, K and V, heads, tokens, channels, bytes
    assert 0 < read < dense / 4


def test_rows_that_share_tiles_read_them_once(open_store):
    store = open_store(1, host_memory=MEMORY)
    cache, version = sketched(store, rows=4)
    version = store.share_prefix(cache, version, 0, int32([1, 2, 3]), 1024)
    store.flush()
    q = np.repeat(normal(np.random.default_rng(5), (1, 1, 2, 64)), 4, 0)

    def read_of(rows):
        before = store.stats()["bytes_read"]
        at = int32([1024] * rows)
        out, _ = store.attend(cache, version, q[:rows], int32(range(rows)), at - 1, at, 0.125,
                              mass=0.7)  # fmt: skip
        return store.stats()["bytes_read"] - before, out

    (one, alone), (four, together) = read_of(1), read_of(4)
    assert four == one
    np.testing.assert_array_equal(together, np.repeat(alone, 4, 0))


def test_cut_taken_and_imported_rows_have_the_sketches_of_what_they_have(open_store):
    store = open_store(1, host_memory=MEMORY)
    cache, version = sketched(store)
    tiles = store.export_tiles(cache, version, 1, 0, 8)
    right = ask(store, cache, version, mass=0.8)[0]
    (other,) = store.create_caches(1, 2, 1024, 2, 64, "bf16", 128, "", sketch=True)
    store.import_tiles(other, 0, 0, 0, tiles)
    empty = np.zeros((1, 0, 2, 64), np.uint16)
    after = store.append(other, 0, empty, empty, int32([0]), int32([1024]), int32([0]))
    q = normal(np.random.default_rng(2), (2, 1, 2, 64))
    q[..., 0] += 2
    imported = store.attend(other, after, q[1:], int32([0]), int32([1023]), int32([1024]), 0.125,
                            mass=0.8)[0]  # fmt: skip
    np.testing.assert_array_equal(imported[0], right[1])

    version = store.take_rows(cache, version, int32([1, 1]), int32([1024, 1024]))
    taken = ask(store, cache, version, mass=0.8)
    alone = store.attend(cache, version, q[1:], int32([1]), int32([1023]), int32([1024]), 0.125,
                         mass=0.8)[0]  # fmt: skip
    np.testing.assert_array_equal(taken[0][1], right[1])
    np.testing.assert_array_equal(alone[0], right[1])

    version = store.truncate(cache, version, int32([0]), int32([300]))
    k, v = peaked(np.random.default_rng(9), 1, 724, 2, 64, "bf16")
    version = store.append(cache, version, bits(k), bits(v), int32([0]), int32([300]), int32([724]))
    fresh_k, fresh_v = peaked(np.random.default_rng(1), 2, 1024, 2, 64, "bf16")
    (fresh,) = store.create_caches(1, 1, 1024, 2, 64, "bf16", 128, "", sketch=True)
    whole = [np.concatenate([of[1:, :300], more], 1) for of, more in ((fresh_k, k), (fresh_v, v))]
    fresh_version = fill(store, fresh, *whole, [1024])
    np.testing.assert_array_equal(
        ask(store, cache, version, rows=1, mass=0.8)[0],
        ask(store, fresh, fresh_version, rows=1, mass=0.8)[0],
    )


def test_a_flip_in_what_is_read_is_found(open_store):
    """In a page of V that is read it is an error; the answer is right where it is not."""
    store = open_store(1, host_memory=MEMORY)
    cache, version = sketched(store, rows=1, heads=1, tile=256)
    right = ask(store, cache, version, rows=1, heads=1, mass=0.5, block_tokens=32)[0]
    store.flush()
    (device,) = store.devices()
    errors = []
    for page in range(8 * 8):  # of the first tile: 8 of K, 8 of V
        offset = 4096 + page * 4096 + 100
        with open(device["path"], "r+b") as file:
            file.seek(offset)
            byte = file.read(1)
            file.seek(offset)
            file.write(bytes([byte[0] ^ 4]))
        try:
            got = ask(store, cache, version, rows=1, heads=1, mass=0.5, block_tokens=32)[0]
            np.testing.assert_array_equal(got, right)
        except StoreDamagedError as error:
            errors.append((f"offset {offset - 100} of {device['path']}", str(error)))
        with open(device["path"], "r+b") as file:
            file.seek(offset)
            file.write(byte)
    assert 0 < len(errors) < 20
    assert all(where in message for where, message in errors)


@pytest.mark.parametrize(("how", "message"), [
    ({"mass": 0.0}, r"mass 0 and budget 1: each must be more than 0 and at most 1"),
    ({"mass": 1.5}, r"mass 1.5 and budget 1"),
    ({"budget": -1.0}, r"budget -1"),
    ({"mass": float("nan")}, r"mass nan"),
    ({"mass": 0.5, "block_tokens": 8}, r"block_tokens 8: it must be a power of two from 16 to a"),
    ({"mass": 0.5, "block_tokens": 48}, r"block_tokens 48"),
    ({"mass": 0.5, "block_tokens": 256}, r"to a tile's 128"),
    ({"mass": 0.5, "window": 7}, r"and window 7: give one query token and no window"),
])  # fmt: skip
def test_what_cannot_be_is_refused(open_store, how, message):
    store = open_store(0, host_memory=MEMORY)
    cache, version = sketched(store)
    with pytest.raises(InvalidArgumentError, match=message):
        ask(store, cache, version, **how)


def test_a_cache_without_sketches_and_several_query_tokens_are_refused(open_store):
    store = open_store(0, host_memory=MEMORY)
    (plain,) = store.create_caches(1, 2, 1024, 2, 64, "f32", 128)
    version = fill(store, plain, *peaked(np.random.default_rng(0), 2, 1024, 2, 64), [1024] * 2)
    with pytest.raises(
        InvalidArgumentError, match="made without a sketch: make it with sketch=True, or"
    ):
        ask(store, plain, version, mass=0.5)
    cache, version = sketched(store)
    with pytest.raises(InvalidArgumentError, match="2 query tokens and window 0"):
        store.attend(cache, version, np.zeros((2, 2, 2, 64), np.float32), int32([0, 1]),
                     int32([1022] * 2), int32([1024] * 2), 0.1, mass=0.5)  # fmt: skip
    with pytest.raises(InvalidArgumentError, match="of which a window is kept has no sketch"):
        store.create_caches(1, 2, 1024, 2, 64, "f32", 128, "", window_tokens=64, sketch=True)
    with pytest.raises(InvalidArgumentError, match="tile_tokens is 8"):
        store.create_caches(1, 2, 1024, 2, 64, "f32", 8, "", sketch=True)


def test_sketches_are_in_the_budget(open_store):
    """Counted before anything is made, told, and given back."""
    store = open_store(1, host_memory=MEMORY)
    shape = (3, 4, 1024, 2, 64, "bf16", 128)
    plain, more = (store.cache_needs(*shape, sketch=sketch) for sketch in (False, True))
    assert store.cache_needs(3, 4, 1024, 2, 256, "bf16")["tile_tokens"] == 64
    assert store.cache_needs(3, 4, 1024, 2, 256, "bf16", sketch=True)["tile_tokens"] == 256
    codes, scales, v_sum = 128 * 64 // 2, 64 * 4, 64 * 4
    sketches = 3 * 4 * 8 * 2 * (codes + scales + v_sum)
    assert more["host_bytes"] - plain["host_bytes"] == sketches
    assert more["device_bytes"] == plain["device_bytes"]
    assert store.stats()["sketch_bytes"] == 0
    caches = store.create_caches(*shape, sketch=True)
    stats = store.stats()
    assert stats["sketch_bytes"] == sketches
    assert stats["host_bytes"] == stats["staging_bytes"] + stats["tail_bytes"] + sketches
    for cache in caches:
        store.drop_cache(cache)
    assert store.stats()["sketch_bytes"] == 0
    large = (3, 64, 1 << 16, 2, 64, "bf16", 128)
    with pytest.raises(StoreFullError, match=r"for the sketches of what is stored, and staging"):
        store.create_caches(*large, sketch=True)
    store.cache_needs(*large, sketch=False)


def test_a_row_that_needs_room_beside_what_it_shares_is_refused_where_there_is_none(open_store):
    """Nothing is taken by the call that fails, however often it is made."""
    store = open_store(1, host_memory=16 << 20)
    cache, version = sketched(store, rows=2, heads=8)
    version = store.share_prefix(cache, version, 0, int32([1]), 1024)
    for heads in (8, 1):  # until nothing is left
        with contextlib.suppress(StoreFullError):
            while True:
                store.create_caches(1, 1, 1024, heads, 64, "bf16", 128, "", sketch=True)
    before = store.stats()["sketch_bytes"], store.devices()[0]["reserved_bytes"]
    k, v = map(bits, peaked(np.random.default_rng(1), 1, 512, 8, 64, "bf16"))
    for _ in range(3):
        with pytest.raises(StoreFullError, match="of host memory for a sketch beside the tiles"):
            store.append(cache, version, k, v, int32([0]), int32([128]), int32([512]))
    assert (store.stats()["sketch_bytes"], store.devices()[0]["reserved_bytes"]) == before
