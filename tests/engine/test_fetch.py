"""`fetch`: tokens of several rows at once, against what `read` gives row by row."""

import numpy as np
import pytest
from engine_oracle import NUMPY_DTYPES, append, bits, fill, int32, normal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nspjax.errors import InvalidArgumentError, StaleHandleError, StorageIOError, StoreDamagedError
from nspjax.runtime.trace import TraceKind, trace_events

HEADS, D, TILE, CAPACITY = 3, 24, 16, 200
DTYPES = [("f32", ""), ("bf16", ""), ("f16", ""), ("bf16", "int8"), ("f32", "int4")]


def filled(store, lengths, dtype="f32", kv_dtype="", seed=0, heads=HEADS):
    """A cache whose rows have these lengths, and its version."""
    (cache,) = store.create_caches(1, len(lengths), CAPACITY, heads, D, dtype, TILE, kv_dtype)
    rng = np.random.default_rng(seed)
    k, v = (normal(rng, (len(lengths), max(lengths), heads, D), dtype) for _ in "kv")
    version = fill(store, cache, k, v, lengths)
    store.flush()
    return cache, version


def expected(store, cache, rows, begin, lengths, n_tokens, dtype="f32"):
    """k, v [B, n_tokens, H, D] by `read`."""
    shape = (2, len(rows), n_tokens, HEADS, D)
    result = np.zeros(shape, bits(np.zeros(1, NUMPY_DTYPES[dtype])).dtype)
    for b, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        end = min(length, begin + n_tokens)
        if begin < end:
            result[:, b, : end - begin] = store.read(cache, row, begin, end)
    return result


def fetch(store, cache, version, rows, begin, lengths, n_tokens, read_ahead=False):
    got = store.fetch(cache, version, int32(rows), begin, int32(lengths), n_tokens, read_ahead)
    return np.stack(got)


@pytest.mark.parametrize(("dtype", "kv_dtype"), DTYPES)
@pytest.mark.parametrize("n_directories", [0, 1, 3])
@pytest.mark.parametrize("pinned_bytes", [0, 100_000])
def test_every_chunk_of_ragged_rows(open_store, dtype, kv_dtype, n_directories, pinned_bytes):
    store = open_store(n_directories, pinned_bytes=pinned_bytes)
    lengths = [150, 0, 16, 1, 95, 200]
    cache, version = filled(store, lengths, dtype, kv_dtype)
    assert (store.stats()["pinned_bytes"] > 0) == (pinned_bytes > 0 and n_directories > 0)
    rows, seen = [5, 0, 2, 4, 1, 0, 3], [200, 150, 10, 81, 0, 97, 1]  # a row twice, a cut view
    for n_tokens in (1, 16, 50, 64, 300):
        for begin in (0, 7, 16, 80, 143, 150, 199, 500):
            args = (cache, rows, begin, seen, n_tokens, dtype)
            got = fetch(store, cache, version, rows, begin, seen, n_tokens, read_ahead=True)
            np.testing.assert_array_equal(got, expected(store, *args))


@given(data=st.data())
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_random_calls(open_store, data):
    store = open_store(data.draw(st.sampled_from([0, 2])), host_memory=1 << 20)
    lengths = data.draw(st.lists(st.integers(0, CAPACITY), min_size=1, max_size=5))
    lengths[0] = max(lengths[0], 1)
    cache, version = filled(store, lengths)
    for _ in range(4):
        rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
        seen = [data.draw(st.integers(0, lengths[row])) for row in rows]
        begin, n_tokens = data.draw(st.integers(0, 210)), data.draw(st.integers(1, 100))
        ahead = data.draw(st.booleans())
        got = fetch(store, cache, version, rows, begin, seen, n_tokens, ahead)
        np.testing.assert_array_equal(got, expected(store, cache, rows, begin, seen, n_tokens))
    store.close()


def test_appends_and_cuts_between_chunks(open_store):
    """What was read ahead of a tile that is written anew is not used."""
    store = open_store(1)
    cache, version = filled(store, [192, 192])
    rng = np.random.default_rng(1)
    for start in (100, 64, 190, 3):
        fetch(store, cache, version, [0, 1], 0, store.lengths(cache), 64, read_ahead=True)
        k, v = (normal(rng, (1, 192 - start, HEADS, D)) for _ in "kv")
        version = append(store, cache, version, k, v, [1], [start], [192 - start])
        for begin in (64, 128):
            got = fetch(store, cache, version, [0, 1], begin, [192, 192], 64, read_ahead=True)
            np.testing.assert_array_equal(
                got, expected(store, cache, [0, 1], begin, [192, 192], 64)
            )


def test_what_rows_share_is_read_once(open_store):
    store = open_store(1)
    cache, version = filled(store, [160, 1, 1])
    version = store.share_prefix(cache, version, 0, int32([1, 2]), 150)
    before = store.stats()["bytes_read"]
    got = fetch(store, cache, version, [0, 1, 2], 0, [144, 150, 144], 160)
    tile_bytes = -(-2 * TILE * HEADS * D * 4 // 4096) * 4096
    assert store.stats()["bytes_read"] - before == 9 * tile_bytes
    np.testing.assert_array_equal(got, expected(store, cache, [0, 1, 2], 0, [144, 150, 144], 160))


# ---- reads ahead, the trace --------------------------------------------------------------------


@pytest.mark.parametrize("io", ["uring", "pread"])
def test_each_byte_is_read_once_and_in_good_time(open_store, io):
    """Chunk after chunk, layer after layer: from the second step on all that there are buffers for
    is read ahead, and nothing in vain."""
    store = open_store(1, io=io)
    layers = store.create_caches(2, 2, 512, HEADS, D, "f32", TILE)
    versions = [store.fill_synthetic(cache, 512) for cache in layers]
    store.flush()
    n_written = store.stats()["bytes_written"]
    ahead = 0
    for step in range(3):
        before = store.stats()["bytes_read_ahead"]
        for cache, version in zip(layers, versions, strict=True):
            for begin in range(0, 512, 128):
                fetch(store, cache, version, [0, 1], begin, [512, 512], 128, read_ahead=True)
        stats = store.stats()
        assert stats["bytes_read"] == (step + 1) * n_written
        assert stats["bytes_read_in_vain"] == 0
        ahead = stats["bytes_read_ahead"] - before
    assert ahead == n_written  # in the last step: all
    events = trace_events(store.trace())
    calls = events[events["kind"] == TraceKind.fetch]
    assert calls["cache"].tolist() == 3 * (4 * [layers[0]] + 4 * [layers[1]])
    reads = events[events["kind"] == TraceKind.read_ahead]
    assert reads["begin_ns"].min() < calls[0]["end_ns"], "begun in the call before"


def test_what_is_announced_is_read_as_it_is_fetched(open_store):
    """A prefetch of a cache that was fetched last time reads the same ranges, chunk by chunk."""
    store = open_store(1)
    layers = store.create_caches(2, 2, 480, HEADS, D, "f32", TILE)
    versions = [store.fill_synthetic(cache, 480) for cache in layers]
    store.flush()
    n_written = store.stats()["bytes_written"]
    ahead = in_vain = 0
    for step in range(3):
        before = store.stats()["bytes_read_ahead"]
        for layer in range(2):
            following = 1 - layer
            rows, lengths = int32([0, 1]), int32([480, 480])
            store.prefetch(layers[following], rows, lengths)
            for begin in range(0, 480, 48):  # segments begin elsewhere
                fetch(store, layers[layer], versions[layer], [0, 1], begin, [480, 480], 48)
        stats = store.stats()
        assert stats["bytes_read"] == (step + 1) * n_written
        if step == 0:
            in_vain = stats["bytes_read_in_vain"]  # nobody knew of chunks yet
        assert stats["bytes_read_in_vain"] == in_vain
        ahead = stats["bytes_read_ahead"] - before
    assert ahead == n_written


def test_without_read_ahead_no_other_cache_is_guessed(open_store):
    store = open_store(1)
    caches = [filled(store, [192])[0] for _ in range(2)]
    for _ in range(3):
        for cache in caches:
            fetch(store, cache, 1, [0], 0, [192], 192)
    stats = store.stats()
    assert stats["bytes_read_ahead"] == stats["bytes_read_in_vain"] == 0


# ---- the link ----------------------------------------------------------------------------------


def test_bytes_over_the_link(open_store):
    """Queries and results of attention, what is written, what is fetched; not what is pinned or in
    a tail, nor what attention scans."""
    for options in ({}, {"read_bytes_per_s": 1e9, "link_bytes_per_s": 1e9}):
        store = open_store(2, **options)
        cache, version = filled(store, [160, 90])
        written = store.stats()["bytes_written"]
        assert store.stats()["link_bytes"] == written > 0
        q = np.ones((2, 2, 2 * HEADS, D), np.float32)
        out, lse = store.attend(
            cache, version, q, int32([0, 1]), int32([158, 88]), int32([160, 90]), 0.1
        )
        crossed = written + q.nbytes + out.nbytes + lse.nbytes
        assert store.stats()["link_bytes"] == crossed
        before = store.stats()["bytes_read"]
        fetch(store, cache, version, [0, 1], 0, [160, 90], 96)
        fetched = store.stats()["bytes_read"] - before
        assert fetched > 0
        assert store.stats()["link_bytes"] == crossed + fetched
        fetch(store, cache, version, [1], 80, [90], 16)  # the tail
        assert store.stats()["link_bytes"] == crossed + fetched


def test_with_attention_on_the_host_kv_cross_and_queries_do_not(open_store):
    store = open_store(1, link_bytes_per_s=1e9, kv_over_link=True)
    cache, version = filled(store, [160])
    q = np.ones((1, 1, HEADS, D), np.float32)
    store.attend(cache, version, q, int32([0]), int32([159]), int32([160]), 0.1)
    fetch(store, cache, version, [0], 0, [160], 160)
    stats = store.stats()
    assert stats["link_bytes"] == stats["bytes_written"] + stats["bytes_read"]


def test_a_fetch_takes_the_link_s_time_and_attention_does_not(open_store):
    rate = 2e6
    store = open_store(0, link_bytes_per_s=rate)
    (cache,) = store.create_caches(1, 1, 1024, HEADS, D, "f32", TILE)
    version = store.fill_synthetic(cache, 1024)
    store.flush()
    q = np.ones((1, 1, HEADS, D), np.float32)
    for _ in range(2):  # the writes' time on the link is over
        store.attend(cache, version, q, int32([0]), int32([1023]), int32([1024]), 0.1)
    begin_ns = trace_events(store.trace())["end_ns"].max()
    fetch(store, cache, version, [0], 0, [1024], 1024)
    events = trace_events(store.trace())
    attends = events[events["kind"] == TraceKind.attend]
    (call,) = events[events["kind"] == TraceKind.fetch]
    kv_ns = 1024 * 2 * HEADS * D * 4 / rate * 1e9
    assert call["end_ns"] - begin_ns >= kv_ns
    assert attends[-1]["end_ns"] - attends[-1]["begin_ns"] < kv_ns / 2


# ---- what can fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("io", ["uring", "pread"])
def test_short_reads(open_store, io):
    store = open_store(2, io=io, fault="read:short")
    cache, version = filled(store, [150, 200])
    for begin in range(0, 200, 64):
        got = fetch(store, cache, version, [1, 0], begin, [200, 150], 64, read_ahead=True)
        np.testing.assert_array_equal(got, expected(store, cache, [1, 0], begin, [200, 150], 64))


@pytest.mark.parametrize("io", ["uring", "pread"])
@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 8])
def test_a_read_error_is_of_one_call(open_store, io, after):
    """It names the path and the offset; the same call again, and those after it, are right."""
    store = open_store(1, io=io, fault=f"read:eio:after={after}", host_memory=2 << 20)
    reference = open_store(0)
    cache, version = filled(store, [192, 150])
    other, _ = filled(reference, [192, 150])
    errors = []
    for begin in 2 * [*range(0, 192, 32)]:
        wanted = expected(reference, other, [0, 1], begin, [192, 150], 32)
        try:
            got = fetch(store, cache, version, [0, 1], begin, [192, 150], 32, read_ahead=True)
        except StorageIOError as error:
            errors.append(str(error))
            got = fetch(store, cache, version, [0, 1], begin, [192, 150], 32, read_ahead=True)
        np.testing.assert_array_equal(got, wanted)
    assert len(errors) <= 1  # none where a read ahead met it
    assert all("nspjax.kv" in text for text in errors)


@pytest.mark.parametrize("kv_dtype", ["", "int8"])
def test_a_flipped_bit(open_store, kv_dtype):
    store = open_store(1)
    cache, version = filled(store, [192], kv_dtype=kv_dtype)
    path = store.devices()[0]["path"]
    tile_bytes = store.stats()["bytes_written"] // 12
    offset = 4096 + 5 * tile_bytes + 100
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))
    fetch(store, cache, version, [0], 0, [192], 80)  # tiles 0 to 4
    with pytest.raises(StoreDamagedError, match=f"offset {4096 + 5 * tile_bytes} of .*nspjax.kv"):
        fetch(store, cache, version, [0], 80, [192], 16)
    fetch(store, cache, version, [0], 96, [192], 96)
    store.verify_reads(False)
    fetch(store, cache, version, [0], 80, [192], 16)


def test_bad_arguments(open_store):
    store = open_store(0)
    cache, version = filled(store, [40, 60])
    with pytest.raises(StaleHandleError, match="used twice"):
        fetch(store, cache, version - 1, [0], 0, [40], 16)
    with pytest.raises(InvalidArgumentError, match=r"row 2 \(batch row 1\).*rows 0 to 1"):
        fetch(store, cache, version, [0, 2], 0, [40, 1], 16)
    with pytest.raises(InvalidArgumentError, match="length is 41, but the row has 40"):
        fetch(store, cache, version, [0], 0, [41], 16)
    with pytest.raises(InvalidArgumentError, match="length is -1"):
        fetch(store, cache, version, [0], 0, [-1], 16)
    with pytest.raises(InvalidArgumentError, match="from token -1"):
        fetch(store, cache, version, [0], -1, [40], 16)
    with pytest.raises(InvalidArgumentError, match="0 tokens"):
        fetch(store, cache, version, [0], 0, [40], 0)
    assert not fetch(store, cache, version, [-5], 0, [0], 16).any()  # an idle row may be any
