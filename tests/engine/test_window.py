"""Caches that keep a window of their rows: the same answers from a ring of slots, less room and
reads, and a clear word where something is asked for that was dropped."""

import collections

import numpy as np
import pytest
from engine_oracle import PlainCache, append, bits, int32, normal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nspjax.errors import InvalidArgumentError, StorageIOError, StoreDamagedError, StoreFullError

TOLERANCE = {"rtol": 3e-5, "atol": 3e-5}
ROWS, CAPACITY, HEADS, GROUP, D, PAGE = 3, 400, 3, 2, 24, 4096

KINDS = {
    "memory": {"n_directories": 0},
    "file": {"n_directories": 1},
    "pinned": {"n_directories": 1, "pinned_bytes": -1},
    "two_files": {"n_directories": 2},
    "two_files_pread": {"n_directories": 2, "io": "pread", "host_memory": 1 << 20},
}


def room_tiles(window, tile):
    """The window, and a tile more; all of the capacity where that is less."""
    return min(-(-window // tile) + 1, -(-CAPACITY // tile))


def new_cache(store, window, tile, dtype="f32", kv_dtype="", rows=ROWS, layers=1):
    return store.create_caches(
        layers, rows, CAPACITY, HEADS, D, dtype, tile, kv_dtype, window_tokens=window
    )


def new_tokens(rng, n_rows, n_tokens, dtype="f32"):
    return [normal(rng, (n_rows, n_tokens, HEADS, D), dtype) for _ in "kv"]


def attend(store, cache, version, rows, lengths, window, seed=0):
    q = normal(np.random.default_rng(seed), (len(rows), 1, HEADS * GROUP, D))
    at = int32(np.asarray(lengths) - 1)
    got = store.attend(cache, version, q, int32(rows), at, int32(lengths), 0.2, window=window)
    return q, at, got


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_sequences(open_store, kind, data):
    """Appends of all sizes, cuts and restarts of ragged rows, against plain arrays."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    window, tile = data.draw(st.integers(1, 130)), data.draw(st.sampled_from([1, 4, 16, 32]))
    dtype = data.draw(st.sampled_from(["f32", "bf16"]))
    store = open_store(**KINDS[kind], threads=2)
    (cache,) = new_cache(store, window, tile, dtype)
    model, version = PlainCache.empty(ROWS, CAPACITY, HEADS, D, dtype), 0
    for _ in range(data.draw(st.integers(1, 8))):
        rows = data.draw(st.permutations(range(ROWS)))[: data.draw(st.integers(1, ROWS))]
        n = data.draw(st.sampled_from([1, 1, 2, 16, 40, 100, 250]))
        begins = np.array(store.begins(cache))[rows]
        lengths = model.lengths[rows]
        cut = np.array([data.draw(st.sampled_from([0, 0, 0, 1, 15, 33])) for _ in rows])
        least = np.where(begins > 0, begins + window, 0)
        start = np.maximum(lengths - cut, np.minimum(least, lengths))
        start = np.where(start + n > CAPACITY, 0, start)
        n_new = np.array([data.draw(st.integers(0, n)) for _ in rows])
        k, v = new_tokens(rng, len(rows), n, dtype)
        model.append(k, v, rows, start, n_new)
        version = append(store, cache, version, k, v, rows, start, n_new)
        assert store.lengths(cache) == model.lengths.tolist()
        begins = np.array(store.begins(cache))
        assert (begins <= np.maximum(model.lengths - window, 0)).all()
        stored = model.lengths // tile * tile
        assert (stored - begins <= room_tiles(window, tile) * tile).all()
        token_bytes = 2 * HEADS * D * (4 if dtype == "f32" else 2)
        kept = (model.lengths - begins).sum()
        assert store.stats()["kv_bytes_stored"] == kept * token_bytes
        check_attention(store, cache, version, model, window, rng)
    for row, (begin, end) in enumerate(zip(store.begins(cache), model.lengths, strict=True)):
        k, v = store.read(cache, row, begin, int(end))
        np.testing.assert_array_equal(k, bits(model.k[row, begin:end]))
        np.testing.assert_array_equal(v, bits(model.v[row, begin:end]))
        got_k, got_v = store.fetch(
            cache, version, int32([row]), 0, int32([end]), CAPACITY, window=window
        )
        first = max(0, int(end) - window)
        for got, whole in ((got_k, model.k), (got_v, model.v)):
            np.testing.assert_array_equal(got[0, first:end], bits(whole[row, first:end]))
            assert not got[0, :first].any()
            assert not got[0, end:].any()
    store.close()


def check_attention(store, cache, version, model, window, rng):
    """Decode steps and last pieces of prompts, through windows up to the cache's."""
    rows = rng.permutation(ROWS)[: rng.integers(1, ROWS + 1)]
    n_tokens = int(rng.choice([1, 1, 7]))
    length = model.lengths[rows]
    position = np.maximum(length - int(rng.integers(0, 2)), 0)
    q = normal(rng, (len(rows), n_tokens, HEADS * GROUP, D))
    options = {"scale": 0.2, "window": int(rng.integers(1, window + 1))}
    got = store.attend(cache, version, q, int32(rows), int32(position), int32(length), **options)
    expected = model.attend(q, rows, position, length, **options)
    np.testing.assert_allclose(got[0], expected[0], **TOLERANCE)
    np.testing.assert_allclose(got[1], expected[1], **TOLERANCE)


@pytest.mark.parametrize("kv_dtype", ["f32", "int8"])
@pytest.mark.parametrize("kind", KINDS)
def test_random_programs(open_store, kind, kv_dtype):
    """Attention in two calls, held tiles, writes behind and reads ahead: the same bits as from a
    cache that keeps everything and does one thing after another."""
    rng = np.random.default_rng([len(kind), len(kv_dtype)])
    window, tile, layers = 70, 16, 2
    store = open_store(**{"host_memory": 4 << 20} | KINDS[kind])
    plain = open_store(0)
    caches = new_cache(store, window, tile, kv_dtype=kv_dtype, layers=layers)
    whole = new_cache(plain, 0, tile, kv_dtype=kv_dtype, layers=layers)
    versions, lengths = [0] * layers, np.zeros((layers, ROWS), np.int32)
    started = collections.deque()
    converts = kv_dtype == "int8"  # held tiles are not converted yet

    def wait(index):
        ticket, expected = started[index]
        del started[index]
        for got, same in zip(store.attend_wait(ticket), expected, strict=True):
            np.testing.assert_array_equal(got, same)

    for _ in range(400):
        layer = int(rng.integers(layers))
        rows = int32(rng.permutation(ROWS)[: rng.integers(1, ROWS + 1)])
        length = lengths[layer]
        match rng.choice(["append", "start", "wait", "writeback", "prefetch", "flush"],
                         p=[0.4, 0.2, 0.18, 0.1, 0.08, 0.04]):  # fmt: skip
            case "append":
                n = int(rng.choice([1, 1, 1, 2, 15, 40, 150]))
                begins = np.array(store.begins(caches[layer]))[rows]
                least = np.minimum(np.where(begins > 0, begins + window, 0), length[rows])
                start = np.maximum(length[rows] - rng.choice([0, 0, 0, 3, 20], len(rows)), least)
                start = int32(np.where(start + n > CAPACITY, 0, start))
                n_new = int32(rng.integers(0, n + 1, len(rows)))
                k, v = new_tokens(rng, len(rows), n)
                hold = not converts and bool(rng.random() < 0.8)
                for s, c in ((store, caches), (plain, whole)):
                    version = s.append(c[layer], versions[layer], k, v, rows, start, n_new,
                                       hold=hold and s is store)  # fmt: skip
                versions[layer] = version
                length[rows] = np.where(n_new > 0, start + n_new, length[rows])
            case "start":
                q = normal(rng, (len(rows), int(rng.choice([1, 1, 3])), HEADS * GROUP, D))
                args = (versions[layer], q, rows, int32(np.maximum(length[rows] - 1, 0)),
                        length[rows], 0.2, window)  # fmt: skip
                ticket = store.attend_start(
                    caches[layer], *args, read_ahead=bool(rng.random() < 0.5)
                )
                started.append((ticket, plain.attend(whole[layer], *args)))
            case "wait" if started:
                wait(int(rng.integers(len(started))))
            case "writeback" if not converts:
                store.writeback(
                    caches[layer], int(rng.choice([1, tile, 4 * tile])), bool(rng.random() < 0.5)
                )
            case "prefetch":
                store.prefetch(caches[layer], rows, length[rows], 1 << 16)
            case "flush":
                store.flush()
    while started:
        wait(0)


@pytest.mark.parametrize("n_directories", [0, 1, 2])
def test_room_and_reads(open_store, n_directories):
    """A long context with a short window takes room, and is read, as the window says."""
    capacity, window, rows, heads, tile = 1 << 20, 4096, 2, 4, 256
    store = open_store(n_directories, host_memory=32 << 20)
    shape = (1, rows, capacity, heads, 64, "bf16", tile)
    tile_bytes = tile * 64 * 2 * 2  # of a head
    whole = store.cache_needs(*shape)["device_bytes"]
    room = store.cache_needs(*shape, window_tokens=window)["device_bytes"]
    devices = max(n_directories, 1)
    assert room == [rows * heads * (window // tile + 1) * tile_bytes // devices] * devices
    assert whole == [rows * heads * (capacity // tile) * tile_bytes // devices] * devices
    (cache,) = store.create_caches(*shape, window_tokens=window)
    reserved = [device["reserved_bytes"] for device in store.devices()]
    assert [r // PAGE * PAGE for r in reserved] == room
    version = store.fill_synthetic(cache, 20_000)
    store.flush()
    assert store.begins(cache) == [(20_000 // tile - 17) * tile] * rows
    before = store.stats()["bytes_read"]
    q = np.ones((rows, 1, heads, 64), np.float32)
    store.attend(cache, version, q, int32([0, 1]), int32([19_999] * 2), int32([20_000] * 2), 0.1,
                 window=window)  # fmt: skip
    read = store.stats()["bytes_read"] - before
    assert read <= rows * heads * (window // tile + 1) * tile_bytes
    assert read >= rows * heads * (window // tile - 1) * tile_bytes


def test_the_tile_follows_from_the_window(open_store):
    """A quarter of what is kept at most, so that room stays near the window."""
    store = open_store()
    needs = store.cache_needs(1, 1, 1 << 20, 1, 8, "f32", window_tokens=128)
    assert needs["tile_tokens"] == 32


def filled(open_store, n_tokens=200, window=40, **options):
    store = open_store(**{"n_directories": 1} | options)
    (cache,) = new_cache(store, window, 16, rows=1)
    rng = np.random.default_rng(0)
    k, v = new_tokens(rng, 1, n_tokens)
    version = 0
    for begin in range(0, n_tokens, 20):  # by pieces: a window's worth is in between
        piece = slice(begin, begin + 20)
        version = append(store, cache, version, k[:, piece], v[:, piece], [0], [begin], [20])
    return store, cache, version, k, v


def test_what_was_dropped_is_refused(open_store):
    store, cache, version, k, v = filled(open_store)
    assert store.begins(cache) == [(12 - 4) * 16]  # 12 full tiles, room for 4
    with pytest.raises(InvalidArgumentError, match=r"row 0 from token 127 on.* from 128 on"):
        store.read(cache, 0, 127, 200)
    np.testing.assert_array_equal(store.read(cache, 0, 128, 200)[0], k[0, 128:])
    with pytest.raises(InvalidArgumentError, match="no window: the cache keeps the newest 40"):
        attend(store, cache, version, [0], [200], 0)
    with pytest.raises(InvalidArgumentError, match="a window of 41 tokens: the cache keeps"):
        attend(store, cache, version, [0], [200], 41)
    with pytest.raises(InvalidArgumentError, match="attend over row 0 from token 110 on"):
        attend(store, cache, version, [0], [150], 40)
    attend(store, cache, version, [0], [168], 40)
    fetch = (cache, version, int32([0]), 0, int32([200]), 200)
    for window in (0, 41):
        with pytest.raises(InvalidArgumentError, match=r"fetch with .*keeps the newest 40"):
            store.fetch(*fetch, window=window)
    with pytest.raises(InvalidArgumentError, match="fetch of row 0 from token 110"):
        store.fetch(*fetch[:4], int32([150]), 200, window=40)
    with pytest.raises(InvalidArgumentError, match="export of tiles of row 0 from token 0"):
        store.export_tiles(cache, version, 0, 0, 12)
    with pytest.raises(InvalidArgumentError, match=r"share_prefix: .*without window_tokens"):
        store.share_prefix(cache, version, 0, int32([]), 5)
    with pytest.raises(InvalidArgumentError, match=r"x_cache: .* keeps the newest 40 tokens"):
        store.x_cache(cache, 1, 16)
    with pytest.raises(InvalidArgumentError, match="window_tokens is -1"):
        new_cache(store, -1, 16)
    with pytest.raises(InvalidArgumentError, match=r"cut it back to 168 .*or start it over"):
        append(store, cache, version, k, v, [0], [167], [1])
    assert store.version(cache) == version
    assert not store.can_truncate(cache, int32([167]))
    assert store.can_truncate(cache, int32([168]))
    version = append(store, cache, version, k, v, [0], [168], [5])
    _, _, got = attend(store, cache, version, [0], [173], 40)
    model = PlainCache.empty(1, CAPACITY, HEADS, D, "f32")
    model.append(k, v, [0], [0], [168])
    model.append(k[:, :5], v[:, :5], [0], [168], [5])
    q = normal(np.random.default_rng(0), (1, 1, HEADS * GROUP, D))
    expected = model.attend(q, [0], [172], [173], 0.2, window=40)
    np.testing.assert_allclose(got[0], expected[0], **TOLERANCE)
    append(store, cache, version, k, v, [0], [0], [3])
    assert store.begins(cache) == [0]


def test_tiles_of_a_whole_row_come_into_a_ring(open_store):
    """A prefix that was saved from a cache that keeps everything."""
    source = open_store()
    (whole,) = new_cache(source, 0, 16, rows=1)
    k, v = new_tokens(np.random.default_rng(1), 1, 192)
    version = append(source, whole, 0, k, v, [0], [0], [192])
    store = open_store(2)
    (cache,) = new_cache(store, 40, 16, rows=1)
    for begin, end in ((0, 3), (3, 12)):
        tiles = source.export_tiles(whole, version, 0, begin, end)
        store.import_tiles(cache, 0, 0, begin, tiles)
    assert store.begins(cache) == [128]
    np.testing.assert_array_equal(store.read(cache, 0, 128, 192)[1], v[0, 128:])


@pytest.mark.parametrize(("kind", "error"), [("eio", StorageIOError), ("enospc", StoreFullError)])
def test_a_write_that_fails_behind_the_append(open_store, kind, error):
    """It is in memory until it is written; meanwhile the row has its window."""
    store, cache, version, k, v = filled(open_store, fault=f"write:{kind}:after=11:times=3")
    store.flush()
    _, _, before = attend(store, cache, version, [0], [200], 40)
    assert store.stats()["n_writes"] == 11
    version = append(store, cache, version, k[:, :16], v[:, :16], [0], [200], [16])
    _, _, behind = attend(store, cache, version, [0], [216], 40)
    for _ in range(2):
        with pytest.raises(error, match=r"write of \d+ bytes at offset \d+ of .*nspjax.kv"):
            append(store, cache, version, k, v, [0], [216], [16])
        _, _, again = attend(store, cache, version, [0], [216], 40)
        np.testing.assert_array_equal(behind[0], again[0])
    assert store.can_truncate(cache, int32([200]))
    version = append(store, cache, version, k, v, [0], [200], [0])
    _, _, after = attend(store, cache, version, [0], [200], 40)
    np.testing.assert_array_equal(before[0], after[0])
    version = append(store, cache, version, k[:, 16:], v[:, 16:], [0], [216], [100])
    np.testing.assert_array_equal(store.read(cache, 0, 290, 316)[0], k[0, 90:116])


@pytest.mark.parametrize(("kind", "error"), [("eio", StorageIOError), ("enospc", StoreFullError)])
def test_a_large_append_that_fails_says_what_it_took(open_store, kind, error):
    store = open_store(1, fault=f"write:{kind}:after=14", host_memory=1 << 20)
    (cache,) = store.create_caches(1, 1, 4000, HEADS, D, "f32", 16, window_tokens=320)
    k, v = new_tokens(np.random.default_rng(0), 1, 640)
    version = append(store, cache, 0, k, v, [0], [0], [640])
    with pytest.raises(error, match=r"write of \d+ bytes at offset \d+ of .*nspjax.kv"):
        append(store, cache, version, k, v, [0], [640], [640])
    assert store.lengths(cache) == [640]
    assert store.begins(cache) == [(80 - 21) * 16]
    assert not store.can_truncate(cache, int32([640]))
    with pytest.raises(InvalidArgumentError, match="of this one has those from 944 on"):
        attend(store, cache, version, [0], [640], 320)
    version = append(store, cache, version, k, v, [0], [0], [600])
    np.testing.assert_array_equal(store.read(cache, 0, 280, 600)[0], k[0, 280:600])


def test_a_flip_in_the_ring_is_found(open_store):
    store, cache, version, _, _ = filled(open_store)
    store.flush()
    (device,) = store.devices()
    tile_bytes = -(-HEADS * 2 * 16 * D * 4 // PAGE) * PAGE
    slot = 11 % 4  # of the newest full tile
    with open(device["path"], "r+b") as file:
        file.seek(PAGE + slot * tile_bytes + 100)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(StoreDamagedError, match=f"offset {PAGE + slot * tile_bytes} "):
        attend(store, cache, version, [0], [200], 40)
    attend(store, cache, version, [0], [200], 8)  # the tail alone


def test_all_of_a_ring_is_pinned_or_nothing(open_store):
    """A window that fits host memory is never read."""
    store, cache, version, _, _ = filled(open_store, pinned_bytes=-1)
    assert store.stats()["pinned_bytes"] == 4 * -(-HEADS * 2 * 16 * D * 4 // PAGE) * PAGE
    attend(store, cache, version, [0], [200], 40)
    assert store.stats()["bytes_read"] == store.stats()["bytes_written"] == 0
    part = open_store(1, pinned_bytes=2 * PAGE * 5)
    (cache,) = new_cache(part, 40, 16, rows=1)
    part.fill_synthetic(cache, 200)
    assert part.stats()["pinned_bytes"] == 0
