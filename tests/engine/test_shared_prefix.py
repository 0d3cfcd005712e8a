"""Rows that share a prompt's tiles: read once for all, and nobody's loss when one goes on alone."""

import numpy as np
import pytest
from engine_oracle import PlainCache, append, fill, int32, normal

from nspjax.errors import InvalidArgumentError, StaleHandleError, StoreFullError

ROWS, CAPACITY, HEADS, GROUP, D, TILE = 6, 700, 4, 2, 64, 16
ROW_BYTES = 2 * HEADS * D * 2


@pytest.fixture
def shared(open_store):
    """A store on a file, 5 rows that share 400 of row 0's 500 tokens, and what they hold."""
    rng = np.random.default_rng(0)
    store = open_store(1)
    (cache,) = store.create_caches(1, ROWS, CAPACITY, HEADS, D, "bf16", TILE)
    model = PlainCache.empty(ROWS, CAPACITY, HEADS, D, "bf16")
    k, v = (normal(rng, (1, 500, HEADS, D), "bf16") for _ in "kv")
    model.append(k, v, [0], [0], [500])
    version = append(store, cache, 0, k, v, [0], [0], [500])
    version = store.share_prefix(cache, version, 0, int32([1, 2, 3, 4, 5]), 400)
    for row in range(1, ROWS):
        model.k[row], model.v[row], model.lengths[row] = model.k[0], model.v[0], 400
    store.flush()
    return store, cache, version, model


def attend(store, cache, version, model, n_tokens=1):
    rng = np.random.default_rng(1)
    q = normal(rng, (ROWS, n_tokens, HEADS * GROUP, D))
    rows, lengths = int32(range(ROWS)), int32(model.lengths)
    got = store.attend(cache, version, q, rows, lengths - n_tokens, lengths, 0.125)
    expected = model.attend(q, rows, lengths - n_tokens, lengths, 0.125)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-5)
    return got


@pytest.mark.parametrize("n_tokens", [1, 7])
def test_shared_tiles_are_read_once(shared, n_tokens):
    store, cache, version, model = shared
    before = store.stats()["bytes_read"]
    attend(store, cache, version, model, n_tokens)
    # row 0 has 6 full tiles of its own beyond the 25 that all share
    assert store.stats()["bytes_read"] - before == 31 * TILE * ROW_BYTES
    assert store.stats()["bytes_written"] == 31 * TILE * ROW_BYTES


def test_rows_go_on_alone(shared):
    store, cache, version, model = shared
    rng = np.random.default_rng(2)
    for start, n_new in [(400, 37), (437, 100), (350, 40), (5, 1), (0, 30)]:
        k, v = (normal(rng, (2, n_new, HEADS, D), "bf16") for _ in "kv")
        model.append(k, v, [1, 4], [start, start], [n_new, n_new])
        version = append(store, cache, version, k, v, [1, 4], [start, start], [n_new, n_new])
        attend(store, cache, version, model)


def test_the_first_row_starts_over(shared):
    """Its tiles stay where they are for the others; it writes elsewhere."""
    store, cache, version, model = shared
    rng = np.random.default_rng(3)
    for start, n_new in [(300, 100), (0, 450), (450, 64)]:
        k, v = (normal(rng, (1, n_new, HEADS, D), "bf16") for _ in "kv")
        model.append(k, v, [0], [start], [n_new])
        version = append(store, cache, version, k, v, [0], [start], [n_new])
        attend(store, cache, version, model)
    reserved = store.devices()[0]["reserved_bytes"]
    version = store.share_prefix(cache, version, 0, int32([1, 2, 3, 4, 5]), 0)  # let go
    model.lengths[1:] = 0
    for n_new in (500, 200):  # the room that was taken is used again
        version = store.share_prefix(cache, version, 0, int32([1]), 300)
        k, v = (normal(rng, (1, n_new, HEADS, D), "bf16") for _ in "kv")
        version = append(store, cache, version, k, v, [0], [0], [n_new])
    assert store.devices()[0]["reserved_bytes"] == reserved


def test_a_share_of_a_share(shared):
    store, cache, version, model = shared
    rng = np.random.default_rng(4)
    k, v = (normal(rng, (1, 100, HEADS, D), "bf16") for _ in "kv")
    model.append(k, v, [1], [400], [100])
    version = append(store, cache, version, k, v, [1], [400], [100])
    version = store.share_prefix(cache, version, 1, int32([5]), 490)
    model.k[5], model.v[5], model.lengths[5] = model.k[1], model.v[1], 490
    attend(store, cache, version, model)


def test_what_cannot_be_shared(open_store, shared):
    store, cache, version, _ = shared
    for source, rows, n_tokens, message in [
        (6, [1], 1, "from row 6: .*rows 0 to 5"),
        (-1, [1], 1, "from row -1: .*rows 0 to 5"),
        (0, [0], 1, "with row 0: .*not row 0"),
        (0, [1, 1], 1, "with row 1: .*once"),
        (0, [9], 1, "with row 9: .*rows 0 to 5"),
        (0, [1], 501, "501 tokens: row 0 has 500"),
        (0, [1], -1, "-1 tokens: row 0 has 500"),
    ]:
        with pytest.raises(InvalidArgumentError, match=message):
            store.share_prefix(cache, version, source, int32(rows), n_tokens)
    with pytest.raises(StaleHandleError):
        store.share_prefix(cache, version - 1, 0, int32([1]), 1)
    assert store.version(cache) == version
    two = open_store(2)
    (odd,) = two.create_caches(1, 2, 64, 3, D, "bf16", TILE)
    with pytest.raises(InvalidArgumentError, match="3 KV heads on 2 devices"):
        two.share_prefix(odd, 0, 0, int32([1]), 0)


def test_no_room_beside_the_shared(open_store, tmp_path):
    """A row that must leave its tiles to others needs room elsewhere."""
    store = open_store(1)
    free = store.devices()[0]["free_bytes"]
    capacity = free // (2 * D * 2) // 3 // 16 * 16  # two rows fit, a third does not
    if capacity >= 1 << 30:
        pytest.skip("the disk is too large for this")
    (cache,) = store.create_caches(1, 2, capacity, 1, D, "bf16", TILE)
    k = np.zeros((1, 64, 1, D), np.uint16)
    version = append(store, cache, 0, k, k, [0], [0], [64])
    version = store.share_prefix(cache, version, 0, int32([1]), 64)
    (other,) = store.create_caches(1, 1, capacity // 2, 1, D, "bf16", TILE)
    with pytest.raises(StoreFullError, match="other rows share"):
        append(store, cache, version, k, k, [0], [0], [64])
    store.drop_cache(other)
    assert fill(store, *store.create_caches(1, 1, 64, 1, D, "bf16", TILE), k, k, [64]) == 1
