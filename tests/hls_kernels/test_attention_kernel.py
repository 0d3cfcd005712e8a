"""The FPGA's attention kernel, compiled for C simulation, against float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_run import BAD_OPERANDS, DONE, DTYPES, KV_TYPES, attend, make_tiles, operands, run
from not_finite import odd_values, put

from nspjax import _engine
from nspjax.errors import InvalidArgumentError

TOLERANCE = {"rtol": 2e-5, "atol": 2e-5}  # of float32


def check(tiles, q, visible, scale, **options):
    got, want = (
        run(tiles, q, visible, scale, **options),
        attend(tiles, q, visible, scale, **options),
    )
    assert got.status == DONE
    np.testing.assert_allclose(got.max, want[0], **TOLERANCE)
    np.testing.assert_allclose(got.sum, want[1], **TOLERANCE)
    np.testing.assert_allclose(got.out, want[2], **TOLERANCE)
    return got


def all_of(length, n_queries):
    return np.array([[0, length]] * n_queries)


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("head_dim", [64, 80, 128, 256])
def test_against_float64(kv_type, head_dim):
    """Groups x lengths around the sizes of blocks and tiles; the tail is masked."""
    rng = np.random.default_rng(head_dim)
    for tile_tokens, lengths in [(64, (1, 63, 65, 130)), (256, (127, 129, 511))]:
        tiles = make_tiles(rng, kv_type, 2, max(lengths), head_dim, tile_tokens)
        for group, length in zip((1, 4, 5, 8), lengths, strict=False):
            q = rng.standard_normal((2, group, head_dim), np.float32)
            check(tiles, q, all_of(length, group), head_dim**-0.5)


@pytest.mark.parametrize(
    ("kv_type", "head_dim", "group", "length"),
    [("bf16", 64, 8, 69_999), ("f16", 128, 5, 70_000), ("int8", 128, 4, 33_333)],
)
def test_long(kv_type, head_dim, group, length):
    rng = np.random.default_rng(length)
    tiles = make_tiles(rng, kv_type, 1, length, head_dim, 1024)
    q = rng.standard_normal((1, group, head_dim), np.float32)
    check(tiles, q, all_of(length, group), head_dim**-0.5)


@st.composite
def runs(draw):
    """Any sizes that the kernel has, with ranges that need not be inside the tiles."""
    n_queries = draw(st.integers(1, 64))
    first_token = draw(st.sampled_from([0, 4096]))
    tokens = draw(st.integers(1, 500))
    position = st.integers(first_token, first_token + tokens + 5)
    ranges = draw(st.lists(st.tuples(position, position), min_size=n_queries, max_size=n_queries))
    return {
        "kv_type": draw(st.sampled_from(KV_TYPES)),
        "heads": draw(st.integers(1, 3)),
        "head_dim": 16 * draw(st.integers(1, 16)),
        "tile_tokens": 1 << draw(st.integers(4, 10)),
        "tokens": tokens,
        "visible": np.array(ranges),
        "options": {"softcap": draw(st.sampled_from([0.0, 20.0])), "first_token": first_token},
        "seed": draw(st.integers(0, 1000)),
    }


@settings(max_examples=60, deadline=None)
@given(case=runs())
def test_any_run(case):
    rng = np.random.default_rng(case["seed"])
    tiles = make_tiles(
        rng, case["kv_type"], case["heads"], case["tokens"], case["head_dim"], case["tile_tokens"]
    )
    q = rng.standard_normal((case["heads"], len(case["visible"]), case["head_dim"]), np.float32)
    check(tiles, q, case["visible"], case["head_dim"] ** -0.5, **case["options"])


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # signalling NaNs
@settings(max_examples=60, deadline=None)
@given(case=runs(), odd=odd_values, odd_query=odd_values)
def test_what_is_not_finite(case, odd, odd_query):
    """As softmax's plain arithmetic has it; what a query does not see adds nothing."""
    kv_type, visible, options = case["kv_type"], case["visible"], case["options"]
    dtype = kv_type if kv_type in DTYPES else "f32"
    if options["softcap"] and kv_type not in DTYPES:
        odd_query = []  # a code of 0 makes NaN of an infinite query that a softcap would bound
    rng = np.random.default_rng(case["seed"])
    tiles = make_tiles(
        rng, kv_type, case["heads"], case["tokens"], case["head_dim"], case["tile_tokens"],
        lambda rows: put(rows, dtype, odd),
    )  # fmt: skip
    q = rng.standard_normal((case["heads"], len(visible), case["head_dim"]), np.float32)
    q = put(q, "f32", odd_query)
    scale = case["head_dim"] ** -0.5
    got, want = (fn(tiles, q, visible, scale, **options) for fn in (run, attend))
    np.testing.assert_array_equal(np.isnan(got.out), np.isnan(want[2]))
    np.testing.assert_allclose(got.out, want[2], **TOLERANCE)
    nothing = (np.maximum(visible[:, 0], options["first_token"]) >= visible[:, 1]) | (
        visible[:, 0] >= options["first_token"] + tiles.k.shape[1]
    )
    np.testing.assert_array_equal(got.max == -np.inf, np.broadcast_to(nothing, got.max.shape))


def test_partial_results_of_two_runs_merge():
    """Another card's half: the same as all at once."""
    rng = np.random.default_rng(1)
    tiles = make_tiles(rng, "bf16", 1, 512, 64, 128)
    q = rng.standard_normal((1, 4, 64), np.float32)
    halves = [run(tiles, q, np.array([range_] * 4), 0.125) for range_ in ((0, 300), (300, 512))]
    most = np.maximum(halves[0].max, halves[1].max)
    factors = [np.exp(half.max - most) for half in halves]
    total = sum(half.sum * factor for half, factor in zip(halves, factors, strict=True))
    sums = sum(half.sums * f[..., None] for half, f in zip(halves, factors, strict=True))
    want = attend(tiles, q, all_of(512, 4), 0.125)
    np.testing.assert_allclose(total, want[1], **TOLERANCE)
    np.testing.assert_allclose(sums / total[..., None], want[2], **TOLERANCE)


def test_bad_operands_are_said_and_nothing_is_computed():
    rng = np.random.default_rng(0)
    tiles = make_tiles(rng, "f16", 1, 64, 64, 64)
    words = operands(tiles, np.zeros((1, 1, 64), np.float32), all_of(64, 1), 1.0)
    words[3] = 40  # head_dim
    results = _engine.simulate_attention_kernel(tiles.memory, words)
    assert results.shape == (16,)
    assert results[2] == BAD_OPERANDS


@pytest.mark.parametrize("shorter", ["kv", "operands"])
def test_simulation_refuses_memory_that_is_not_there(shorter):
    rng = np.random.default_rng(0)
    tiles = make_tiles(rng, "f16", 1, 64, 64, 64)
    words = operands(tiles, np.zeros((1, 1, 64), np.float32), all_of(64, 1), 1.0)
    memory = tiles.memory[: -64 * 4] if shorter == "kv" else tiles.memory
    words = words[:-16] if shorter == "operands" else words
    with pytest.raises(InvalidArgumentError, match=f"{shorter} has"):
        _engine.simulate_attention_kernel(memory, words)
