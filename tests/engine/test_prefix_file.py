"""Prefixes that are kept in files: they come back bit for bit, or not at all and with a reason."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefix_cases import (
    MODEL,
    TILE,
    append,
    assert_same,
    attention,
    elements,
    filled,
    new_caches,
    opened,
    tokens,
)
from prefix_parts import LENGTHS

from nspjax.errors import (
    InvalidArgumentError,
)

# ---- round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize("kv_dtype", [None, "int8", "int4"])
@pytest.mark.parametrize(("n_from", "n_to"), [(0, 2), (1, 0), (2, 1), (2, 3), (3, 2)])
def test_another_number_of_devices(tmp_path, small_chunks, n_from, n_to, kv_dtype):
    path = tmp_path / "prefix"
    with opened(tmp_path, n_from) as store, opened(tmp_path, n_to) as other:
        caches = filled(store, LENGTHS, kv_dtype=kv_dtype)
        others = filled(other, (40, 300, 0), seed=1, kv_dtype=kv_dtype)
        kept = tokens(other, others[0], 0, 40)
        for row, to_row, n_tokens in [(0, 1, 333), (1, 2, 200), (2, 1, 57)]:
            store.save_prefix(path, caches, row, model=MODEL)
            others, n_loaded = other.load_prefix(path, others, to_row, model=MODEL)
            assert n_loaded == n_tokens
            other.flush()
            assert_same(store, caches, row, other, others, to_row, n_tokens)
            np.testing.assert_array_equal(
                attention(store, caches[1], row).round(4),
                attention(other, others[1], to_row).round(4),
            )
        np.testing.assert_array_equal(tokens(other, others[0], 0, 40), kept)
        others = [append(other, cache, 1, 30, np.random.default_rng(5), 57) for cache in others]
        # the tile that is full now is stored in fewer bits; those before it are as they were
        n = 57 if kv_dtype is None else 57 // TILE * TILE
        np.testing.assert_array_equal(
            tokens(other, others[0], 1, n), tokens(store, caches[0], 2, n)
        )
    assert [p.name for p in tmp_path.iterdir() if not p.is_dir()] == ["prefix"]


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    length=st.integers(1, 100),
    n_tokens=st.integers(1, 100),
    before=st.integers(0, 100),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    n_layers=st.integers(1, 3),
    pinned=st.sampled_from([0, 50_000, None]),
)
def test_lengths(tmp_path, length, n_tokens, before, dtype, n_layers, pinned):
    n_tokens = min(length, n_tokens)
    shape = {"dtype": dtype, "n_layers": n_layers, "capacity_tokens": 100, "head_dim": 8}
    with opened(tmp_path, 1, pinned=pinned) as store, opened(tmp_path, 2) as other:
        caches = filled(store, (0, length), **shape)
        others = filled(other, (before, 0), seed=1, **shape)
        store.save_prefix(tmp_path / "prefix", caches, 1, n_tokens, model=MODEL)
        others, n_loaded = other.load_prefix(tmp_path / "prefix", others, 0, model=MODEL)
        assert n_loaded == n_tokens
        for cache, another in zip(caches, others, strict=True):
            assert other._engine.lengths(int(another.k[1]))[0] == n_tokens
            np.testing.assert_array_equal(
                tokens(store, cache, 1, n_tokens), tokens(other, another, 0, n_tokens)
            )


@pytest.mark.parametrize("n_directories", [0, 1, 2])
@pytest.mark.parametrize("pinned", [0, "100kB", None])
def test_shared_and_pinned_tiles(tmp_path, n_directories, pinned):
    """Saved from a row that shares its first tiles; loaded into a row whose tiles others have, who
    keep them."""
    path = tmp_path / "prefix"
    with opened(tmp_path, n_directories, pinned=pinned) as store:
        caches = filled(store, (333, 0, 0), batch=5)
        caches = [store.share_prefix(cache, 0, [2, 4], 150) for cache in caches]
        caches = [append(store, c, 4, 99, np.random.default_rng(7), 150) for c in caches]
        wanted = [tokens(store, cache, 4, 249) for cache in caches]
        row_0, row_2 = (tokens(store, caches[0], row, n) for row, n in [(0, 333), (2, 150)])
        store.save_prefix(path, caches, 4, model=MODEL)
        for row in (0, 2, 1):
            caches, n_tokens = store.load_prefix(path, caches, row, model=MODEL)
            assert n_tokens == 249
            for cache, expected in zip(caches, wanted, strict=True):
                np.testing.assert_array_equal(tokens(store, cache, row, 249), expected)
                np.testing.assert_array_equal(tokens(store, cache, 4, 249), expected)
            if row == 0:
                np.testing.assert_array_equal(tokens(store, caches[0], 2, 150), row_2)
        np.testing.assert_array_equal(row_0[:, :150], row_2)
        both = [attention(store, caches[0], row) for row in (0, 1)]
        np.testing.assert_array_equal(*both)


def test_tiles_that_no_device_has_yet_are_saved(tmp_path):
    with opened(tmp_path, 1) as store:
        caches = new_caches(store, n_layers=1)
        rng, where = np.random.default_rng(0), [np.array([n], np.int32) for n in (0, 0, 100)]
        k, v = (elements(rng, (1, 100, *caches[0].shape[2:])) for _ in "kv")
        _, number, version, _ = np.asarray(caches[0].k).tolist()
        version = store._engine.append(number, version, k, v, *where, hold=True)
        lengths = caches[0].lengths.at[0].set(100)
        caches = [caches[0].with_handles(store._engine.cache_handles(number, version), lengths)]
        assert store.stats().bytes_written == 0
        store.save_prefix(tmp_path / "prefix", caches, 0, model=MODEL)
        caches, _ = store.load_prefix(tmp_path / "prefix", caches, 1, model=MODEL)
        for row in (0, 1):
            np.testing.assert_array_equal(
                tokens(store, caches[0], row, 100), np.stack([k[0], v[0]])
            )


def test_a_save_replaces_the_one_before(tmp_path):
    path = tmp_path / "prefix"
    with opened(tmp_path, 1) as store:
        caches = filled(store, LENGTHS)
        store.save_prefix(path, caches, 0, model=MODEL)
        store.save_prefix(path, caches, 2, model=MODEL)
        caches, n_tokens = store.load_prefix(path, caches, 0, model=MODEL)
        assert n_tokens == LENGTHS[2]
        assert_same(store, caches, 0, store, caches, 2, n_tokens)


def test_any_integers_and_any_iterable(tmp_path):
    path = tmp_path / "prefix"
    with opened(tmp_path, 0) as store:
        caches = filled(store, LENGTHS)
        store.save_prefix(path, iter(caches), np.int32(1), np.int64(50), model=MODEL)
        caches, n_tokens = store.load_prefix(path, iter(caches), np.int64(2), model=MODEL)
        assert n_tokens == 50
        np.testing.assert_array_equal(
            tokens(store, caches[1], 2, 50), tokens(store, caches[1], 1, 50)
        )
        for wrong in (True, np.True_, 1.0, "1", [1]):
            with pytest.raises(InvalidArgumentError, match="n_tokens must be an integer"):
                store.save_prefix(path, caches, 1, wrong, model=MODEL)
            with pytest.raises(InvalidArgumentError, match="row must be an integer"):
                store.save_prefix(path, caches, wrong, model=MODEL)
            with pytest.raises(InvalidArgumentError, match="row must be an integer"):
                store.load_prefix(path, caches, wrong, model=MODEL)
