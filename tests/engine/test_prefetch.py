"""What is announced is read before it is asked for, in the order in which it was announced."""

from collections.abc import Sequence

import numpy as np
import pytest
from engine_oracle import int32

from nspjax.errors import InvalidArgumentError
from nspjax.runtime.trace import TraceKind, trace_events

LAYERS, ROWS, TOKENS, HEADS, D, TILE = 4, 4, 512, 2, 64, 64
ROW_BYTES = TOKENS * 2 * HEADS * D * 2
LAYER_BYTES = ROWS * ROW_BYTES
HOST_MEMORY = 16 << 20  # the staging buffers have room for 4 MiB


def filled(store):
    caches = store.create_caches(LAYERS, ROWS, TOKENS, HEADS, D, "bf16", TILE)
    handles = [(cache, store.fill_synthetic(cache, TOKENS)) for cache in caches]
    store.flush()
    return handles


def attend(store, handle, rows: Sequence[int] = range(ROWS), **options):
    to = int32(rows)
    lengths = np.full_like(to, TOKENS)
    q = np.ones((len(to), 1, HEADS, D), np.float32)
    return store.attend(
        *handle, q, to, lengths - 1, lengths, 0.1, **{"read_ahead": False} | options
    )


def prefetch(store, handle, rows: Sequence[int] = range(ROWS), length=TOKENS, most_bytes=0):
    of = int32(rows)
    store.prefetch(handle[0], of, np.full_like(of, length), most_bytes)


def events_of(store, *kinds):
    events = trace_events(store.trace())
    return events[np.isin(events["kind"], kinds)]


@pytest.mark.parametrize("kind", [{"io": "uring"}, {"io": "pread"}, {"read_bytes_per_s": 1e9}])
def test_what_is_announced_is_read_ahead(open_store, kind):
    store = open_store(1, host_memory=HOST_MEMORY, **kind)
    handles = filled(store)
    for handle in handles:
        prefetch(store, handle)
        attend(store, handle)
    stats = store.stats()
    assert stats["bytes_read"] == stats["bytes_read_ahead"] == LAYERS * LAYER_BYTES
    assert stats["bytes_read_in_vain"] == 0
    assert len(events_of(store, TraceKind.read)) == 0


def test_without_it_nothing_is(open_store):
    store = open_store(1, host_memory=HOST_MEMORY)
    handles = filled(store)
    for handle in [*handles, *handles]:
        attend(store, handle)
    assert store.stats()["bytes_read_ahead"] == 0
    assert store.stats()["bytes_read_in_vain"] == 0


def test_the_order_of_the_calls(open_store):
    """Two layers and two groups of rows at once; nothing is read twice."""
    store = open_store(1, host_memory=HOST_MEMORY)
    handles = filled(store)
    order = [(2, [1, 3]), (0, [0, 2]), (2, [0, 2])]
    for layer, rows in order:
        prefetch(store, handles[layer], rows)
    for layer, rows in order:
        attend(store, handles[layer], rows)
    assert store.stats()["bytes_read_ahead"] == 3 * LAYER_BYTES / 2
    ahead = events_of(store, TraceKind.read_ahead)
    assert len(ahead) == 6  # a row is one read
    layer_of = (ahead["offset"] - 4096) // (LAYER_BYTES)
    by_begin = layer_of[np.argsort(ahead["begin_ns"], kind="stable")]
    assert by_begin.tolist() == [2, 2, 0, 0, 2, 2]
    called = events_of(store, TraceKind.prefetch)
    assert called["cache"].tolist() == [handles[layer][0] for layer, _ in order]
    assert called["bytes"].tolist() == [LAYER_BYTES / 2] * 3


def test_before_the_attention_in_front_of_it_is_over(open_store):
    """Layer 1 is announced while layer 0 is at work: its reads begin before layer 0 ends."""
    store = open_store(1, host_memory=HOST_MEMORY, read_bytes_per_s=2 * LAYER_BYTES)
    handles = filled(store)
    rows = int32(range(ROWS))
    lengths = np.full_like(rows, TOKENS)
    q = np.ones((ROWS, 1, HEADS, D), np.float32)
    prefetch(store, handles[1])
    ticket = store.attend_start(*handles[0], q, rows, lengths - 1, lengths, 0.1, read_ahead=False)
    store.attend_wait(ticket)
    attend(store, handles[1])
    ahead = events_of(store, TraceKind.read_ahead)
    first, _ = events_of(store, TraceKind.attend)
    assert len(ahead) == ROWS
    assert np.all(ahead["begin_ns"] < first["end_ns"])


@pytest.mark.parametrize("more", [0, 1, ROW_BYTES - 1])
def test_most_bytes(open_store, more):
    store = open_store(1, host_memory=HOST_MEMORY)
    handles = filled(store)
    prefetch(store, handles[0], most_bytes=2 * ROW_BYTES + more)
    prefetch(store, handles[1], length=0)
    assert events_of(store, TraceKind.prefetch)["bytes"].tolist() == [2 * ROW_BYTES, 0]
    attend(store, handles[0])
    assert store.stats()["bytes_read_ahead"] == 2 * ROW_BYTES
    assert store.stats()["bytes_read"] == LAYER_BYTES


def test_each_row_as_far_as_it_is_asked_for(open_store):
    """Rows of other lengths, in one announcement; what is not announced is read when it is seen."""
    store = open_store(1, host_memory=HOST_MEMORY)
    handles = filled(store)
    rows, lengths = int32(range(ROWS)), int32([TOKENS, 1, 2 * TILE, TILE + 1])
    tile_bytes = TILE * ROW_BYTES // TOKENS
    store.prefetch(handles[0][0], rows, lengths, 0)
    n_tiles = TOKENS // TILE + 1 + 2 + 2
    assert events_of(store, TraceKind.prefetch)["bytes"].tolist() == [n_tiles * tile_bytes]
    q = np.ones((ROWS, 1, HEADS, D), np.float32)
    store.attend(*handles[0], q, rows, lengths - 1, lengths, 0.1, read_ahead=False)
    stats = store.stats()
    assert stats["bytes_read_ahead"] == stats["bytes_read"] == n_tiles * tile_bytes
    assert stats["bytes_read_in_vain"] == 0


def test_more_than_there_is_room_for(open_store):
    """A small ring: what has no buffer yet is read when there is one; results do not change."""
    store, other = open_store(1, host_memory=2 << 20), open_store(0, host_memory=2 << 20)
    handles, others = filled(store), filled(other)
    for handle in handles:
        prefetch(store, handle)
    for handle, same in zip(handles, others, strict=True):
        for got, expected in zip(attend(store, handle), attend(other, same), strict=True):
            np.testing.assert_array_equal(got, expected)
    stats = store.stats()
    assert stats["bytes_read"] == LAYERS * LAYER_BYTES
    assert stats["bytes_read_ahead"] > LAYER_BYTES
    assert stats["bytes_read_in_vain"] == 0


def test_announced_and_then_changed(open_store):
    """Tiles that are written anew, dropped or never asked for: right results, no stale bytes."""
    store, other = open_store(1, host_memory=HOST_MEMORY), open_store(0, host_memory=HOST_MEMORY)
    handles, others = filled(store), filled(other)
    for handle in handles:
        prefetch(store, handle)
    store.drop_cache(handles[3][0])
    k = np.random.default_rng(0).integers(0, 1 << 14, (ROWS, 300, HEADS, D), np.uint16)
    every = int32(range(ROWS))
    for s, of in ((store, handles), (other, others)):
        cache, version = of[1]
        version = s.append(cache, version, k, k, every, every * 0 + 100, every * 0 + 300)
        of[1] = (cache, version)
        lengths = every * 0 + 400
        q = np.ones((ROWS, 1, HEADS, D), np.float32)
        of.append(s.attend(*of[1], q, every, lengths - 1, lengths, 0.1, read_ahead=False))
    for got, expected in zip(handles[-1], others[-1], strict=True):
        np.testing.assert_array_equal(got, expected)
    attend(store, handles[2])
    for _ in range(600):  # more than are kept
        prefetch(store, handles[0], rows=[0])
    for got, expected in zip(attend(store, handles[2]), attend(other, others[2]), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("io", ["uring", "pread"])
def test_a_read_ahead_that_fails_is_nobodys_error(open_store, io):
    """It is counted, and read again by the attention that needs it."""
    store = open_store(1, host_memory=HOST_MEMORY, io=io, fault="read:eio:times=2")
    other = open_store(0, host_memory=HOST_MEMORY)
    handles, others = filled(store), filled(other)
    assert store.stats()["n_failed_reads_ahead"] == 0
    prefetch(store, handles[0])
    prefetch(store, handles[1])  # by then it has failed
    for handle, same in zip(handles[:2], others[:2], strict=True):
        for got, expected in zip(attend(store, handle), attend(other, same), strict=True):
            np.testing.assert_array_equal(got, expected)
    stats = store.stats()
    assert stats["n_failed_reads_ahead"] == 2
    assert stats["bytes_read"] == 2 * LAYER_BYTES


def test_bad_calls(open_store):
    store = open_store(0)
    handle = filled(store)[0]
    for options, message in [
        ({"rows": [4]}, "rows 0 to 3"),
        ({"length": -1}, "-1 tokens"),
        ({"most_bytes": -1}, "-1 bytes"),
    ]:
        with pytest.raises(InvalidArgumentError, match=message):
            prefetch(store, handle, **options)
    prefetch(store, handle, length=TOKENS + 5)  # what there will be by then
