"""Attention in two calls: begun, and waited for while other things go on."""

import threading

import numpy as np
import pytest
from engine_oracle import append, fill, int32, normal

from nspjax.errors import InvalidArgumentError, StorageIOError, StoreClosedError
from nspjax.runtime.trace import TraceKind, trace_events

ROWS, TOKENS, HEADS, GROUP, D, TILE = 4, 600, 2, 2, 64, 16
LENGTHS = [600, 17, 333, 480]
ROW_BYTES = 2 * HEADS * D * 4
SLOW = 2 * TOKENS * ROW_BYTES  # bytes a second: a row of 600 tokens takes half a second


def contents(seed=0, rows=ROWS):
    rng = np.random.default_rng(seed)
    return [normal(rng, (rows, TOKENS, HEADS, D)) for _ in "kv"]


def filled(store, lengths=LENGTHS, seed=0, capacity=2 * TOKENS):
    (cache,) = store.create_caches(1, ROWS, capacity, HEADS, D, "f32", TILE)
    version = fill(store, cache, *contents(seed), lengths)
    store.flush()
    return cache, version


def query(rows, lengths, n_tokens=1, seed=1):
    """The arguments of an attention but for the handle."""
    q = normal(np.random.default_rng(seed), (len(rows), n_tokens, HEADS * GROUP, D))
    return q, int32(rows), int32(lengths) - n_tokens, int32(lengths), 0.125


def one_token(store, cache, version, row, length, hold=False):
    k, v = (x[:1, :1] for x in contents(seed=length))
    store.append(cache, version, k, v, int32([row]), int32([length]), int32([1]), hold)
    return version + 1


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


def events_of(store, kind, cache=None):
    events = trace_events(store.trace())
    of_kind = events["kind"] == kind
    return events[of_kind if cache is None else of_kind & (events["cache"] == cache)]


KINDS = [
    {"n_directories": 0},
    {"n_directories": 1, "io": "uring"},
    {"n_directories": 1, "io": "pread"},
    {"n_directories": 1, "pinned_bytes": 60_000},
    {"n_directories": 2},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"window": 100}, {"softcap": 2.0}, {"read_ahead": False}])
def test_the_same_bits_as_attend(open_store, kind, options):
    store = open_store(**kind)
    cache, version = filled(store)
    for n_tokens in (1, 5):
        asked = query([2, 0, 3, 1], [333, 600, 100, 17], n_tokens)
        expected = store.attend(cache, version, *asked, **options)
        ticket = store.attend_start(cache, version, *asked, **options)
        assert_same(store.attend_wait(ticket), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_many_in_flight(open_store, kind):
    """Two caches, two groups of rows of each, 100 calls; they are waited for in another order."""
    store = open_store(**kind)
    caches = [filled(store, seed=seed) for seed in (0, 1)]
    calls, expected = [], []
    for i in range(100):
        rows = [[0, 1], [3, 2]][i // 2 % 2]
        asked = query(rows, [LENGTHS[row] - i % 7 for row in rows], 1 + i % 3, seed=i)
        calls.append((*caches[i % 2], *asked))
        expected.append(store.attend(*calls[-1]))
    tickets = [store.attend_start(*call) for call in calls]
    assert len(set(tickets)) == 100
    for i in np.random.default_rng(0).permutation(100):
        assert_same(store.attend_wait(tickets[i]), expected[i])


def test_what_was_started_sees_the_rows_as_they_were(open_store):
    """Rows go on, are cut, and share a prefix before the first wait."""
    store = open_store(1)
    cache, version = filled(store)
    asked = query(range(ROWS), LENGTHS)
    expected = store.attend(cache, version, *asked)
    tickets = [store.attend_start(cache, version, *asked)]
    k, v = contents(seed=5)
    version = append(store, cache, version, k, v, range(ROWS), LENGTHS, [1, 30, 16, 0])
    tickets.append(store.attend_start(cache, version, *asked))
    version = append(store, cache, version, k, v, range(ROWS), [300, 10, 0, 480], [9, 9, 9, 9])
    version = store.share_prefix(cache, version, 3, int32([0, 2]), 100)
    store.drop_cache(filled(store)[0])
    for ticket in tickets:
        assert_same(store.attend_wait(ticket), expected)


def test_tickets(open_store):
    store = open_store(0)
    cache, version = filled(store)
    asked = query([0], [600])
    ticket = store.attend_start(cache, version, *asked)
    store.attend_wait(ticket)
    with pytest.raises(InvalidArgumentError, match=rf"ticket {ticket} .*was waited for already"):
        store.attend_wait(ticket)
    for never in (0, -1, ticket + 1):
        with pytest.raises(InvalidArgumentError, match=rf"ticket {never} .*no attend_start"):
            store.attend_wait(never)


def test_too_many_that_nobody_waits_for(open_store):
    store = open_store(0)
    cache, version = filled(store)
    other, of_other = filled(store)
    asked = query([1], [17])
    tickets = [store.attend_start(cache, version, *asked) for _ in range(1024)]
    with pytest.raises(InvalidArgumentError, match=r"1024 attentions .*attend_wait once for each"):
        store.attend_start(cache, version, *asked)
    store.attend(cache, version, *asked)  # leaves none behind
    store.attend_wait(tickets[0])
    store.attend_wait(store.attend_start(cache, version, *asked))
    store.drop_cache(cache)
    with pytest.raises(InvalidArgumentError, match="its cache was dropped"):
        store.attend_wait(tickets[1])
    store.attend_wait(store.attend_start(other, of_other, *asked))


def test_bad_starts(open_store):
    store = open_store(0)
    cache, version = filled(store)
    with pytest.raises(InvalidArgumentError, match="length is 601, but the row has 600"):
        store.attend_start(cache, version, *query([0], [601]))
    with pytest.raises(InvalidArgumentError, match="rows 0 to 3"):
        store.attend_start(cache, version, *query([4], [1]))


# ---- what goes on meanwhile ---------------------------------------------------------------------


@pytest.mark.parametrize("n_directories", [0, 1])
@pytest.mark.parametrize("hold", [False, True])
def test_an_append_to_other_rows_does_not_wait(open_store, n_directories, hold):
    """Row 0 is attended over, slowly; row 1 gets tokens; both orders of events are in the trace."""
    store = open_store(n_directories, read_bytes_per_s=SLOW)
    cache, version = filled(store)
    k, v = contents(seed=3)
    ticket = store.attend_start(cache, version, *query([0], [600]))
    n_new = TILE * 3 if hold else TILE - LENGTHS[1] % TILE - 1  # no full tile, or some that stay
    store.append(cache, version, k[:1], v[:1], int32([1]), int32([17]), int32([n_new]), hold)
    store.attend_wait(ticket)
    (attend,) = events_of(store, TraceKind.attend)
    added = events_of(store, TraceKind.append)[-1]
    assert added["begin_ns"] < attend["end_ns"]
    assert added["end_ns"] < attend["end_ns"]
    np.testing.assert_array_equal(store.read(cache, 1, 17, 17 + n_new)[0], k[0, :n_new])


@pytest.mark.parametrize("n_directories", [0, 1])
def test_an_append_to_the_same_rows_waits(open_store, n_directories):
    """Its tail is being read. One that begins a new tile need not wait."""
    store = open_store(n_directories, read_bytes_per_s=SLOW)
    cache, version = filled(store)
    begin = store.attend_start(cache, version, *query([3], [480]))  # 480 is a multiple of 16
    version = one_token(store, cache, version, 3, 480)
    store.attend_wait(begin)
    (attend,) = events_of(store, TraceKind.attend)
    assert events_of(store, TraceKind.append)[-1]["end_ns"] < attend["end_ns"]

    begin = store.attend_start(cache, version, *query([3], [481]))
    one_token(store, cache, version, 3, 481)
    store.attend_wait(begin)
    attend = events_of(store, TraceKind.attend)[-1]
    assert events_of(store, TraceKind.append)[-1]["end_ns"] > attend["end_ns"]


def test_tickets_are_in_the_trace(open_store):
    store = open_store(0)
    caches = [filled(store) for _ in range(2)]
    tickets = [store.attend_start(*handle, *query([0], [600])) for handle in caches]
    for ticket in tickets[::-1]:
        store.attend_wait(ticket)
    for kind in (TraceKind.attend_start, TraceKind.attend_wait, TraceKind.attend):
        events = events_of(store, kind)
        order = -1 if kind == TraceKind.attend_wait else 1
        assert events["offset"].tolist() == tickets[::order]
        assert events["cache"].tolist() == [cache for cache, _ in caches][::order]


def test_waits_from_several_threads(open_store):
    store = open_store(1)
    cache, version = filled(store)
    asked = query(range(ROWS), LENGTHS)
    expected = store.attend(cache, version, *asked)
    tickets = [store.attend_start(cache, version, *asked) for _ in range(40)]
    good = []

    def wait(mine):
        for ticket in mine:
            assert_same(store.attend_wait(ticket), expected)
            good.append(ticket)

    threads = [threading.Thread(target=wait, args=(tickets[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(good) == tickets


# ---- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("io", ["uring", "pread"])
def test_a_read_error_is_its_tickets(open_store, io):
    """Nobody else hears of it, before it or after it."""
    store = open_store(1, io=io)
    cache, version = filled(store)
    asked = query([0], [600])
    expected = store.attend(cache, version, *asked, read_ahead=False)
    n_reads = store.stats()["n_reads"]

    store = open_store(1, io=io, fault=f"read:eio:after={n_reads}")
    cache, version = filled(store)
    tickets = [store.attend_start(cache, version, *asked, read_ahead=False) for _ in range(4)]
    version = one_token(store, cache, version, 2, LENGTHS[2])
    assert_same(store.attend_wait(tickets[0]), expected)
    for ticket in tickets[2:]:
        assert_same(store.attend_wait(ticket), expected)
    with pytest.raises(StorageIOError, match=r"read of \d+ bytes .*Input/output error"):
        store.attend_wait(tickets[1])
    with pytest.raises(InvalidArgumentError, match="waited for already"):
        store.attend_wait(tickets[1])
    assert_same(store.attend(cache, version, *asked), expected)


@pytest.mark.parametrize("n_directories", [0, 1])
def test_closed_with_jobs_in_the_queue(open_store, n_directories):
    """The one at work ends; those behind it never begin, and who waits for them is told."""
    store = open_store(n_directories, read_bytes_per_s=SLOW)
    cache, version = filled(store)
    asked = query([0], [600])
    tickets = [store.attend_start(cache, version, *asked) for _ in range(50)]
    outcomes, waiting = [], threading.Barrier(3)

    def wait(ticket):
        waiting.wait()
        try:
            store.attend_wait(ticket)
            outcomes.append("done")
        except StoreClosedError:
            outcomes.append("closed")

    threads = [threading.Thread(target=wait, args=(ticket,)) for ticket in tickets[-2:]]
    for thread in threads:
        thread.start()
    waiting.wait()
    store.close()
    for thread in threads:
        thread.join(timeout=60)
    assert outcomes == ["closed"] * 2
    with pytest.raises(StoreClosedError):
        store.attend_wait(tickets[0])
    with pytest.raises(StoreClosedError):
        store.attend_start(cache, version, *asked)
    assert len(events_of(store, TraceKind.attend)) < 50


def test_forgotten_with_jobs_in_the_queue(open_store):
    from nspjax import _engine

    store = _engine.Store(["memory:"], 8 << 20, read_bytes_per_s=SLOW)
    cache, version = filled(store)
    for _ in range(20):
        store.attend_start(cache, version, *query([0], [600]))
    del store
