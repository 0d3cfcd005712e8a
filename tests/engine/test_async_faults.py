"""Errors of reads ahead and of writes behind: what is in flight when something fails is neither
lost nor stale, and what is asked for next is right."""

import os

import numpy as np
import pytest
from engine_oracle import append, fill, int32, normal
from test_faults import in_own_mounts

from nspjax.errors import StorageIOError, StoreFullError

HEADS, D, TILE = 2, 64, 16


def contents(rows, n_tokens, seed=0):
    rng = np.random.default_rng(seed)
    return [normal(rng, (rows, n_tokens, HEADS, D)) for _ in "kv"]


def attend(store, cache, version, length, row=0):
    q = np.ones((1, 1, HEADS, D), np.float32)
    return store.attend(cache, version, q, int32([row]), int32([length - 1]), int32([length]), 0.1)[
        0
    ]


def one_cache(store, rows, n_tokens, layers=1):
    caches = store.create_caches(layers, rows, n_tokens, HEADS, D, "f32", TILE)
    return caches if layers > 1 else caches[0]


# ---- reads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("io", ["uring", "pread"])
@pytest.mark.parametrize("n_tokens", [512, 2048])  # fewer reads than there are buffers, and more
@pytest.mark.parametrize("after", range(0, 24, 2))
def test_a_read_error_while_the_next_scan_is_read_ahead(open_store, io, n_tokens, after):
    """The scan that fails leaves reads of its own in flight beside those ahead, of the same tiles:
    the next call takes each tile once, and none is missing."""
    store = open_store(1, io=io, fault=f"read:eio:after={after}", host_memory=4 << 20)
    cache = one_cache(store, 1, n_tokens)
    version = fill(store, cache, *contents(1, n_tokens), [n_tokens])
    store.flush()
    memory = open_store(0, host_memory=4 << 20)
    other = one_cache(memory, 1, n_tokens)
    expected = attend(
        memory, other, fill(memory, other, *contents(1, n_tokens), [n_tokens]), n_tokens
    )
    n_errors = 0
    for _ in range(8):
        try:
            out = attend(store, cache, version, n_tokens)
        except StorageIOError:
            n_errors += 1
        else:
            np.testing.assert_array_equal(out, expected)
    stats = store.stats()
    assert n_errors + stats["n_failed_reads_ahead"] == 1  # no error where a read ahead met it
    assert stats["n_reads"] > after


@pytest.mark.parametrize("io", ["uring", "pread"])
def test_a_read_ahead_that_fails_is_tried_again(open_store, io):
    """Nobody had asked for it: the call that does reads it once more."""
    n_tokens = 512
    store = open_store(1, io=io, host_memory=4 << 20)
    cache = one_cache(store, 1, n_tokens)
    version = fill(store, cache, *contents(1, n_tokens), [n_tokens])
    store.flush()
    for _ in range(3):
        expected = attend(store, cache, version, n_tokens)
    n_reads = store.stats()["n_reads"] // 3
    assert store.stats()["bytes_read_ahead"] > 0

    # 2 calls read 2 * n_reads tiles, what comes next is ahead
    store = open_store(1, io=io, host_memory=4 << 20, fault=f"read:eio:after={2 * n_reads}")
    cache = one_cache(store, 1, n_tokens)
    version = fill(store, cache, *contents(1, n_tokens), [n_tokens])
    store.flush()
    for _ in range(4):
        np.testing.assert_array_equal(attend(store, cache, version, n_tokens), expected)
    assert store.stats()["n_failed_reads_ahead"] == 1


@pytest.mark.parametrize("io", ["uring", "pread"])
@pytest.mark.parametrize("fault", ["read:short", "read:short:after=7", "write:short"])
def test_short_transfers(open_store, io, fault):
    """Layers one after another, rows that grow and are cut: all of it with half transfers."""
    rng = np.random.default_rng(0)
    n_tokens = 768
    store = open_store(1, io=io, host_memory=4 << 20, fault=fault)
    memory = open_store(0, host_memory=4 << 20)
    caches, others = (one_cache(s, 2, n_tokens, layers=3) for s in (store, memory))
    k, v = contents(2, n_tokens)
    length = np.zeros(2, int)
    for version in range(12):
        start = [int(rng.integers(0, n + 1)) for n in length]
        n_new = [int(rng.integers(0, n_tokens - s + 1)) for s in start]
        parts = [
            np.stack([np.resize(x[b, s:], x[b].shape) for b, s in enumerate(start)]) for x in (k, v)
        ]
        for cache, other in zip(caches, others, strict=True):
            append(store, cache, version, *parts, [0, 1], start, n_new)
            append(memory, other, version, *parts, [0, 1], start, n_new)
        length = np.where(n_new, np.add(start, n_new), length)
        for row in (0, 1):
            for cache, other in zip(caches, others, strict=True):
                if length[row]:
                    np.testing.assert_array_equal(
                        attend(store, cache, version + 1, length[row], row),
                        attend(memory, other, version + 1, length[row], row),
                    )


# ---- writes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("io", ["uring", "pread"])
@pytest.mark.parametrize("late", ["after=1:times=1000", "after=1:times=1", "after=2:times=1"])
def test_a_write_on_its_way_is_not_read_from_the_medium(open_store, io, late):
    """Where it goes there is nothing yet, or nothing that can be read: the file was cut."""
    n_tokens = 12 * TILE
    store = open_store(1, io=io, fault=f"write:late:{late}")
    memory = open_store(0)
    k, v = contents(1, n_tokens)
    results = []
    for each in (store, memory):
        cache = one_cache(each, 1, n_tokens)
        version = fill(each, cache, k[:, : 4 * TILE], v[:, : 4 * TILE], [4 * TILE])
        each.flush()
        if each is store:
            os.truncate(store.devices()[0]["path"], 4096 + 4 * TILE * HEADS * D * 2 * 4)
        for begin in (4 * TILE, 8 * TILE):
            part = slice(begin, begin + 4 * TILE)
            version = append(each, cache, version, k[:, part], v[:, part], [0], [begin], [4 * TILE])
        results.append([attend(each, cache, version, n_tokens) for _ in range(3)])
        np.testing.assert_array_equal(each.read(cache, 0, 0, n_tokens), [k[0], v[0]])
    np.testing.assert_array_equal(*results)
    assert store.stats()["n_failed_reads_ahead"] == 0


@pytest.mark.parametrize("io", ["uring", "pread"])
@pytest.mark.parametrize("kept_tiles", [1, 4, 7])
def test_overwriting_a_part_of_a_write_that_fails(open_store, io, kept_tiles):
    """The append waits for the write of eight tiles, which fails, before it writes the last ones
    anew: the first ones are in memory only, and stay there for another try."""
    n_tokens = 8 * TILE
    store = open_store(1, io=io, fault="write:eio", host_memory=8 << 20)
    cache = one_cache(store, 1, 2 * n_tokens)
    k, v = contents(1, n_tokens)
    version = fill(store, cache, k, v, [n_tokens])  # in flight, and will fail
    start = kept_tiles * TILE
    new_k, new_v = contents(1, n_tokens, seed=1)
    append(store, cache, version, new_k, new_v, [0], [start], [n_tokens])
    store.flush()
    assert store.stats()["n_write_retries"] == 1
    for got, old, new in zip(
        store.read(cache, 0, 0, start + n_tokens), (k, v), (new_k, new_v), strict=True
    ):
        np.testing.assert_array_equal(got[:start], old[0, :start])
        np.testing.assert_array_equal(got[start:], new[0])


@pytest.mark.parametrize("io", ["uring", "pread"])
@pytest.mark.parametrize("kind", ["eio", "enospc"])
def test_a_cache_dropped_while_its_writes_fail(open_store, io, kind):
    """Then there is nothing to try again: the store goes on, and the room is another cache's."""
    store = open_store(1, io=io, fault=f"write:{kind}:times=3")
    cache, other = one_cache(store, 1, 256, layers=2)
    k, v = contents(1, 256)
    fill(store, cache, k[:, :64], v[:, :64], [64])
    error = StoreFullError if kind == "enospc" else StorageIOError
    with pytest.raises(error):
        store.flush()
    store.drop_cache(cache)
    store.flush()
    version = fill(store, other, k, v, [256])
    again = one_cache(store, 1, 256)
    fill(store, again, k[:, ::-1].copy(), v, [256])
    store.flush()
    np.testing.assert_array_equal(store.read(other, 0, 0, 256)[0], k[0])
    np.testing.assert_array_equal(store.read(again, 0, 0, 256)[0], k[0, ::-1])
    attend(store, other, version, 256)


@pytest.mark.parametrize("io", ["uring", "pread"])
def test_writes_that_never_succeed(open_store, io):
    """Appends are refused, what was taken over stays readable, closing does not hang."""
    store = open_store(1, io=io, fault="write:eio:times=1000000", host_memory=1 << 20)
    cache = one_cache(store, 1, 4096)
    k, v = contents(1, 4096)
    version, n_taken = 0, 0
    for begin in range(0, 4096, TILE):
        part = slice(begin, begin + TILE)
        try:
            version = append(store, cache, version, k[:, part], v[:, part], [0], [begin], [TILE])
        except StorageIOError:
            break
        n_taken = begin + TILE
    assert 0 < n_taken < 4096
    assert store.lengths(cache) == [n_taken]
    np.testing.assert_array_equal(store.read(cache, 0, 0, n_taken)[0], k[0, :n_taken])
    attend(store, cache, version, n_taken)
    for _ in range(3):
        with pytest.raises(StorageIOError):
            store.flush()
    store.close()


@pytest.mark.parametrize("io", ["uring", "pread"])
def test_closed_with_reads_and_writes_in_flight(tmp_path, open_store, io):
    """What is in flight is waited for: the next store finds a page, and its own tiles only."""
    store = open_store(1, io=io)
    path = store.devices()[0]["path"]
    cache, other = one_cache(store, 1, 2048, layers=2)
    k, v = contents(1, 2048)
    version = fill(store, cache, k, v, [2048])
    attend(store, cache, version, 2048)
    attend(store, cache, version, 2048)  # reads ahead
    fill(store, other, k, v, [2048])  # writes behind
    store.close()
    assert os.stat(path).st_size == 4096


def test_a_cache_dropped_while_it_is_read_ahead(open_store):
    """Its room is given to another one at once: what was read ahead is not taken for that one's."""
    store = open_store(1, host_memory=4 << 20)
    k, v = contents(1, 1024)
    cache = one_cache(store, 1, 1024)
    version = fill(store, cache, k, v, [1024])
    for _ in range(2):
        attend(store, cache, version, 1024)
    store.drop_cache(cache)
    other = one_cache(store, 1, 1024)
    memory = open_store(0, host_memory=4 << 20)
    same = one_cache(memory, 1, 1024)
    changed = k[:, ::-1].copy()
    version = fill(store, other, changed, v, [1024])
    expected = attend(memory, same, fill(memory, same, changed, v, [1024]), 1024)
    np.testing.assert_array_equal(attend(store, other, version, 1024), expected)


# ---- no room ------------------------------------------------------------------------------------

SHARED_AND_FULL = """
    paths = [mount("tmpfs", "size=4m") for _ in range(2)]
    store = _engine.Store(paths, 4 << 20, pinned_bytes=0)
    rng = np.random.default_rng(0)
    one = lambda *values: np.array(values, np.int32)
    cache, = store.create_caches(1, 2, 1024, 2, 64, "f32", 16)
    k, v = (rng.standard_normal((1, 100, 2, 64), np.float32) for _ in "kv")
    version = store.append(cache, 0, k, v, one(0), one(0), one(100))
    version = store.share_prefix(cache, version, 0, one(1), 96)
    store.flush()
    free = [device["free_bytes"] for device in store.devices()]
    # now the second device has less than a row's share left
    filler = open(paths[1] + "/other", "wb")
    filler.write(bytes(free[1] - (256 << 10)))
    filler.flush()
"""


def test_no_room_beside_shared_tiles():
    """Row 0 cannot be cut, as row 1 has its tiles and there is no room for others: it is as it was,
    its newest tokens too, and being refused again and again takes no room either."""
    out = in_own_mounts(
        SHARED_AND_FULL
        + """
    for _ in range(3):
        try:
            store.append(cache, version, k[:, :1], v[:, :1], one(0), one(20), one(1))
        except errors.StoreFullError as error:
            print("full:", error)
    print("lengths:", store.lengths(cache))
    print("same:", all((a == b[0]).all() for a, b in zip(store.read(cache, 0, 0, 100), (k, v))))
    now = [device["free_bytes"] for device in store.devices()]
    print("free:", now[0] == free[0])
    """
    )
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    assert "beside the tiles that other rows share" in lines["full"]
    assert lines["lengths"] == "[100, 96]"
    assert lines["same"] == "True"
    assert lines["free"] == "True"


def test_a_disk_that_is_full_when_the_store_is_opened():
    """ENOSPC for the superblock: once there is room the directory is as good as new."""
    out = in_own_mounts("""
        path = mount("tmpfs", "size=64k")
        with open(path + "/other", "wb", buffering=0) as other:
            try:
                while True:
                    other.write(bytes(4096))
            except OSError as error:
                print("other:", error)
        try:
            _engine.Store([path], 4 << 20)
        except errors.StoreFullError as error:
            print("full:", error)
        import os
        os.unlink(path + "/other")
        _engine.Store([path], 4 << 20).close()
        print("then: good")
    """)
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    assert "write of 4096 bytes at offset 0" in lines["full"]
    assert lines["then"] == "good"
