"""The keys once more, by channel: a page run of its own, written with the tokens it is made of."""

import contextlib
import re

import numpy as np
import pytest
from engine_oracle import NUMPY_DTYPES, append, bits, int32, normal

from nspjax.errors import InvalidArgumentError, StorageIOError, StoreDamagedError, StoreFullError

ROWS, CAPACITY, HEADS, D, PAGE = 2, 512, 3, 20, 4096
TYPES = [("f32", ""), ("bf16", ""), ("f16", "bf16"), ("bf16", "int8"), ("f32", "int4")]


def new_cache(store, dtype="f32", kv_dtype="", tile=64, **options):
    (cache,) = store.create_caches(
        1, ROWS, CAPACITY, HEADS, D, dtype, tile, kv_dtype, k_by_channel=True, **options
    )
    return cache


def new_tokens(seed, n_tokens, dtype="f32", n_rows=ROWS):
    rng = np.random.default_rng(seed)
    return [normal(rng, (n_rows, n_tokens, HEADS, D), dtype) for _ in "kv"]


def head_bytes(tile):
    """Of float32 keys of one head in a tile; K and V have twice as many."""
    return tile * D * 4


def pages(n_bytes):
    return -(-n_bytes // PAGE) * PAGE


@pytest.mark.parametrize("kind", [
    {"n_directories": 0}, {"n_directories": 1}, {"n_directories": 1, "pinned_bytes": -1},
    {"n_directories": 2},
])  # fmt: skip
@pytest.mark.parametrize(("dtype", "kv_dtype"), TYPES)
@pytest.mark.parametrize("tile", [16, 64, 256])
def test_the_same_keys_as_in_their_tokens_order(open_store, kind, dtype, kv_dtype, tile):
    """Whatever was appended at once, held, cut and written again; to the bit what K reads as."""
    store = open_store(**{"host_memory": 16 << 20} | kind)
    cache = new_cache(store, dtype, kv_dtype, tile)
    k, v = new_tokens(0, CAPACITY, dtype)
    version, start = 0, 0
    for n, cut, hold in [(5, 0, 0), (300, 0, 0), (1, 0, 0), (90, 200, 1), (150, 3, 1), (40, 0, 0)]:
        start -= cut
        piece = slice(start, start + n)
        version = store.append(cache, version, bits(k[:, piece]), bits(v[:, piece]), int32([0, 1]),
                               int32([start] * 2), int32([n] * 2), hold=bool(hold))  # fmt: skip
        start += n
        if cut:
            store.writeback(cache, 64)
    store.flush()
    for row in range(ROWS):
        for begin, end in [(0, start), (7, 8), (60, 200), (start - 1, start), (9, 9)]:
            keys = store.read_keys_by_channel(cache, row, begin, end)
            np.testing.assert_array_equal(keys, store.read(cache, row, begin, end)[0])
            if kv_dtype == "":
                np.testing.assert_array_equal(keys, bits(k[row, begin:end]))
            assert keys.shape == (end - begin, HEADS, D)
            assert keys.dtype == bits(np.zeros(1, NUMPY_DTYPES[dtype])).dtype


@pytest.mark.parametrize(("dtype", "tile"), [("f32", 64), ("f32", 256), ("bf16", 256)])
def test_a_channel_lies_in_one_piece(open_store, dtype, tile):
    """In the file, after the cache's K and V: for each tile and head the keys transposed."""
    store = open_store(1, host_memory=16 << 20)
    cache = new_cache(store, dtype, tile=tile)
    n_tokens = 2 * tile
    k, v = new_tokens(0, n_tokens, dtype)
    append(store, cache, 0, k, v, [0, 1], [0, 0], [n_tokens] * 2)
    store.flush()
    (device,) = store.devices()
    element = 4 if dtype == "f32" else 2
    of_head = tile * D * element
    kv_bytes = ROWS * (CAPACITY // tile) * pages(2 * HEADS * of_head)
    whole = np.fromfile(device["path"], np.uint8)
    for row in range(ROWS):
        for t in range(2):
            at = PAGE + kv_bytes + (row * (CAPACITY // tile) + t) * pages(HEADS * of_head)
            stored = whole[at : at + HEADS * of_head].view(k.dtype)
            keys = k[row, t * tile : (t + 1) * tile]  # [tokens, heads, D]
            per_word = 4 // element
            words = keys.reshape(tile, HEADS, D // per_word, per_word).transpose(1, 2, 0, 3)
            np.testing.assert_array_equal(bits(stored), bits(words.copy()).reshape(-1))


@pytest.mark.parametrize("n_directories", [1, 2])
def test_its_room_is_counted(open_store, n_directories):
    store = open_store(n_directories, host_memory=16 << 20)
    shape = (3, ROWS, CAPACITY, 4, D, "f32", 64)
    plain, both = (store.cache_needs(*shape, k_by_channel=both) for both in (False, True))
    heads = 4 // n_directories  # of each row on a device
    keys = 3 * ROWS * (CAPACITY // 64) * pages(heads * head_bytes(64))
    gained = np.subtract(both["device_bytes"], plain["device_bytes"])
    assert gained.tolist() == [keys] * n_directories
    assert both["host_bytes"] == plain["host_bytes"]
    caches = store.create_caches(*shape, k_by_channel=True)
    reserved = [device["reserved_bytes"] // PAGE * PAGE for device in store.devices()]
    assert reserved == both["device_bytes"]
    for cache in caches:
        store.drop_cache(cache)
    assert all(device["reserved_bytes"] < PAGE for device in store.devices())


def test_a_flip_is_found_by_its_own_checksum(open_store):
    """K and V of the same tokens are read as before."""
    store = open_store(1, host_memory=16 << 20)
    cache = new_cache(store)
    k, v = new_tokens(0, 200)
    version = append(store, cache, 0, k, v, [0, 1], [0, 0], [200] * 2)
    store.flush()
    (device,) = store.devices()
    kv_bytes = ROWS * (CAPACITY // 64) * pages(2 * HEADS * head_bytes(64))
    offset = PAGE + kv_bytes + 2 * pages(HEADS * head_bytes(64))  # row 0, tile 2
    with open(device["path"], "r+b") as file:
        file.seek(offset + 77)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 4]))
    with pytest.raises(StoreDamagedError, match=f"at offset {offset} of .*nspjax.kv"):
        store.read_keys_by_channel(cache, 0, 0, 200)
    for row, begin, end in ((0, 0, 128), (0, 192, 200), (1, 0, 200)):
        keys = store.read_keys_by_channel(cache, row, begin, end)
        np.testing.assert_array_equal(keys, k[row, begin:end])
    np.testing.assert_array_equal(store.read(cache, 0, 0, 200)[0], k[0, :200])
    append(store, cache, version, k[:1], v[:1], [0], [100], [100])  # written anew
    store.flush()
    keys = store.read_keys_by_channel(cache, 0, 100, 200)
    np.testing.assert_array_equal(keys, k[0, :100])


@pytest.mark.parametrize(("kind", "error"), [("enospc", StoreFullError), ("eio", StorageIOError)])
@pytest.mark.parametrize(("after", "of_keys"), [(0, False), (13, True)])
def test_a_write_error_of_either_run_loses_nothing(open_store, kind, error, after, of_keys):
    store = open_store(1, fault=f"write:{kind}:after={after}:times=2", host_memory=1 << 20)
    cache = new_cache(store, tile=16)
    k, v = new_tokens(0, 400)
    append(store, cache, 0, k, v, [0, 1], [0, 0], [10, 10])

    def go_on():
        n = store.lengths(cache)[0]
        if n < 400:
            new = (k[:, n:], v[:, n:], [0, 1], [n, n], [400 - n] * 2)
            append(store, cache, store.version(cache), *new)
        store.flush()

    with pytest.raises(error) as raised:
        go_on()
    offset = int(re.search(r"at offset (\d+)", str(raised.value))[1])
    kv_bytes = ROWS * (CAPACITY // 16) * pages(2 * HEADS * head_bytes(16))
    assert (offset >= PAGE + kv_bytes) == of_keys
    for _ in range(3):
        with contextlib.suppress(error):
            go_on()
            break
    for row in range(ROWS):
        np.testing.assert_array_equal(store.read_keys_by_channel(cache, row, 0, 400), k[row, :400])
        np.testing.assert_array_equal(store.read(cache, row, 0, 400)[1], v[row, :400])


def test_shared_and_loaded_rows_have_it(open_store):
    store = open_store(1, host_memory=16 << 20)
    cache = new_cache(store)
    k, v = new_tokens(0, 300)
    version = append(store, cache, 0, k, v, [0, 1], [0, 0], [300, 0])
    version = store.share_prefix(cache, version, 0, int32([1]), 150)
    version = append(store, cache, version, k[1:], v[1:], [1], [150], [100])
    version = append(
        store, cache, version, k[1:], v[1:], [0], [64], [70]
    )  # the other keeps its own
    expected = [np.concatenate([k[0, :64], k[1, :70]]), np.concatenate([k[0, :150], k[1, :100]])]
    for row, keys in enumerate(expected):
        got = store.read_keys_by_channel(cache, row, 0, len(keys))
        np.testing.assert_array_equal(got, keys)
    tiles = store.export_tiles(cache, version, 1, 0, 3)
    other = open_store(2, host_memory=16 << 20)
    loaded = new_cache(other)
    other.import_tiles(loaded, 0, 1, 0, tiles)
    got = other.read_keys_by_channel(loaded, 1, 0, 192)
    np.testing.assert_array_equal(got, expected[1][:192])


def test_a_window_holds_for_both(open_store):
    store = open_store(1, host_memory=16 << 20)
    cache = new_cache(store, tile=16, window_tokens=40)
    k, v = new_tokens(0, 300)
    version = 0
    for start in range(0, 300, 20):
        piece = slice(start, start + 20)
        version = append(store, cache, version, k[:, piece], v[:, piece], [0, 1], [start] * 2,
                         [20] * 2)  # fmt: skip
    begin = store.begins(cache)[0]
    assert begin > 200
    got = store.read_keys_by_channel(cache, 0, begin, 300)
    np.testing.assert_array_equal(got, k[0, begin:300])
    with pytest.raises(InvalidArgumentError, match=f"those from {begin} on"):
        store.read_keys_by_channel(cache, 0, begin - 1, 300)


def test_a_cache_without_it(open_store):
    store = open_store()
    (cache,) = store.create_caches(1, 1, 64, 1, 8, "f32")
    with pytest.raises(InvalidArgumentError, match="made without k_by_channel"):
        store.read_keys_by_channel(cache, 0, 0, 0)
