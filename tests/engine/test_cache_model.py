"""Sequences of appends, cuts, shares, rows that go on from others and attention, on every device
kind, against arrays."""

import dataclasses

import numpy as np
import pytest
from engine_oracle import PlainCache, append, bits, int32, normal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nspjax.errors import InvalidArgumentError

TOLERANCE = {"rtol": 3e-5, "atol": 3e-5}
ROWS, CAPACITY = 3, 150

KINDS = {
    "memory": {"n_directories": 0},
    "file": {"n_directories": 1},
    "file_pinned": {"n_directories": 1, "pinned_bytes": 50_000},
    "two_files": {"n_directories": 2, "pinned_bytes": 90_000},
    "three_files_pread": {"n_directories": 3, "io": "pread"},
}


@dataclasses.dataclass(frozen=True)
class Step:
    """Some rows get new tokens from a place at most their length on."""

    rows: list[int]
    n_new: list[int]
    cut: list[int]  # tokens dropped from each row first
    n_tokens: int
    shares: tuple[int, int, float] | None  # before that: from a row, with a row, this part of it
    takes: list[int] | None  # before that: the row that each goes on from


@st.composite
def steps(draw) -> Step:
    rows = draw(st.permutations(range(ROWS)))[: draw(st.integers(1, ROWS))]
    n_tokens = draw(st.sampled_from([1, 1, 2, 16, 17, 40, 100]))
    each = {"min_size": len(rows), "max_size": len(rows)}
    n_new = draw(st.lists(st.integers(0, n_tokens), **each))
    cut = draw(st.lists(st.sampled_from([0, 0, 0, 1, 15, 33, 200]), **each))
    shares = draw(
        st.none()
        | st.tuples(st.integers(0, ROWS - 1), st.integers(0, ROWS - 1), st.floats(0, 1)).filter(
            lambda share: share[0] != share[1]
        )
    )
    takes = draw(st.none() | st.lists(st.integers(0, ROWS - 1), min_size=ROWS, max_size=ROWS))
    return Step(rows, n_new, cut, n_tokens, shares, takes)


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    dtype=st.sampled_from(["f32", "bf16", "f16"]),
    heads=st.sampled_from([(1, 4), (2, 1), (3, 2), (5, 3)]),
    head_dim=st.sampled_from([8, 24, 64]),
    tile_tokens=st.sampled_from([1, 4, 16, 32]),
    sequence=st.lists(steps(), min_size=1, max_size=8),
    seed=st.integers(0, 1000),
)
def test_sequences(open_store, kind, dtype, heads, head_dim, tile_tokens, sequence, seed):
    rng = np.random.default_rng(seed)
    n_kv, group = heads
    store = open_store(**KINDS[kind], threads=2)
    (cache,) = store.create_caches(1, ROWS, CAPACITY, n_kv, head_dim, dtype, tile_tokens)
    model, version = PlainCache.empty(ROWS, CAPACITY, n_kv, head_dim, dtype), 0
    for step in sequence:
        version = take(store, cache, version, model, step)
        version = share(store, cache, version, model, step)
        k, v = (normal(rng, (len(step.rows), step.n_tokens, n_kv, head_dim), dtype) for _ in "kv")
        start = np.maximum(model.lengths[step.rows] - step.cut, 0)
        n_new = np.minimum(step.n_new, CAPACITY - start)
        model.append(k, v, step.rows, start, n_new)
        version = append(store, cache, version, k, v, step.rows, start, n_new)
        assert store.lengths(cache) == model.lengths.tolist()
        check_attention(store, cache, version, model, group, rng)
    for row, length in enumerate(model.lengths):
        begin, end = sorted(rng.integers(0, length + 1, 2))
        k, v = store.read(cache, row, int(begin), int(end))
        np.testing.assert_array_equal(k, bits(model.k[row, begin:end]))
        np.testing.assert_array_equal(v, bits(model.v[row, begin:end]))
    store.close()


def take(store, cache, version, model, step: Step) -> int:
    """Of rows that several go on from, fewer tokens where the step cuts rows, too."""
    if step.takes is None:
        return version
    order = np.array(step.takes)
    n_takers = np.bincount(order, minlength=ROWS)
    lengths = np.maximum(model.lengths - np.where(n_takers > 1, max(step.cut), 0), 0)
    args = (cache, version, int32(order), int32(lengths))
    n_devices = len(store.devices())
    if ((order - np.arange(ROWS)) * model.k.shape[2] % n_devices).any():
        with pytest.raises(InvalidArgumentError, match="different devices"):
            store.take_rows(*args)
        return version
    model.take_rows(order, lengths)
    return store.take_rows(*args)


def share(store, cache, version, model, step: Step) -> int:
    if step.shares is None:
        return version
    source, row, part = step.shares
    n_tokens = int(part * model.lengths[source])
    n_devices = len(store.devices())
    if (source - row) * model.k.shape[2] % n_devices:
        with pytest.raises(InvalidArgumentError, match="different devices"):
            store.share_prefix(cache, version, source, int32([row]), n_tokens)
        return version
    model.k[row], model.v[row] = model.k[source], model.v[source]
    model.lengths[row] = n_tokens
    return store.share_prefix(cache, version, source, int32([row]), n_tokens)


def check_attention(store, cache, version, model, group, rng):
    """Random rows and lengths; positions before and after the end; window, softcap."""
    n_kv, head_dim = model.k.shape[2:]
    rows = rng.permutation(ROWS)[: rng.integers(1, ROWS + 1)]
    n_tokens = int(rng.choice([1, 1, 3, 20]))
    length = [int(rng.integers(0, model.lengths[row] + 1)) for row in rows]
    position = [max(0, n + int(rng.integers(-25, 3))) for n in length]
    options = {"scale": 0.2, "window": int(rng.choice([0, 0, 1, 30]))}
    options["softcap"] = float(rng.choice([0, 0, 3]))
    q = normal(rng, (len(rows), n_tokens, n_kv * group, head_dim))
    got = store.attend(cache, version, q, int32(rows), int32(position), int32(length), **options)
    expected = model.attend(q, rows, position, length, **options)
    np.testing.assert_allclose(got[0], expected[0], **TOLERANCE)
    np.testing.assert_allclose(got[1], expected[1], **TOLERANCE)


@pytest.mark.parametrize("q_dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_queries_of_another_dtype(open_store, dtype, q_dtype):
    """q may be float32, float16, or the cache's own 16-bit dtype."""
    if (dtype, q_dtype) == ("f16", "bf16"):
        pytest.skip("uint16 stands for the cache's dtype")
    rng = np.random.default_rng(0)
    store = open_store()
    (cache,) = store.create_caches(1, 1, 64, 2, 32, dtype)
    model = PlainCache.empty(1, 64, 2, 32, dtype)
    k, v = (normal(rng, (1, 50, 2, 32), dtype) for _ in "kv")
    model.append(k, v, [0], [0], [50])
    version = append(store, cache, 0, k, v, [0], [0], [50])
    q = normal(rng, (1, 1, 4, 32), q_dtype)
    got, _ = store.attend(
        cache, version, q if q_dtype == "f16" else bits(q), int32([0]), int32([49]), int32([50]),
        0.2,
    )  # fmt: skip
    expected, _ = model.attend(q.astype(np.float32), [0], [49], [50], 0.2)
    np.testing.assert_allclose(got, expected, **TOLERANCE)
