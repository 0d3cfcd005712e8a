"""What raise-attention takes for causal, and what not: an attention whose mask is exchanged."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export, lax

from nspjax.compiler import mlir
from nspjax.compiler.passes.raise_attention import raise_attention
from nspjax.ops import CACHED_ATTENTION

B, C, HKV, GROUP, D = 2, 16, 2, 2, 8
BIG = -1e10


def attention(mask, n_tokens=1, softmax=jax.nn.softmax, masked=None):
    """The function (q, k, v, cache_k, cache_v, index) -> (out, cache_k, cache_v), masked by
    mask(index) [T, C], and its arguments."""

    def put_mask(scores, seen):
        return jnp.where(seen, scores, BIG)

    def fn(q, k, v, cache_k, cache_v, index, *more):
        cache_k = lax.dynamic_update_slice(cache_k, k, (0, index, 0, 0))
        cache_v = lax.dynamic_update_slice(cache_v, v, (0, index, 0, 0))
        keys, values = (jnp.repeat(cache, GROUP, axis=2) for cache in (cache_k, cache_v))
        scores = jnp.einsum("bthd,bjhd->bhtj", q, keys) / np.sqrt(D)
        weights = softmax((masked or put_mask)(scores, mask(index, *more)))
        return jnp.einsum("bhtj,bjhd->bthd", weights, values), cache_k, cache_v

    shapes = [(B, n_tokens, HKV * GROUP, D), *[(B, n_tokens, HKV, D)] * 2, *[(B, C, HKV, D)] * 2]
    return fn, [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]


def raised(fn, arrays, *more):
    """(the mark's settings or None, report) of the function."""
    index = jax.ShapeDtypeStruct((), jnp.int32)
    module = mlir.module_of(export.export(jax.jit(fn))(*arrays, index, *more))
    after, report = raise_attention(module)
    after.operation.verify()
    marks = mlir.composites(after, CACHED_ATTENTION)
    assert len(marks) == len(report.raised)
    if not marks:
        assert after is module, "it was changed without need"
        assert len(report.left) == 1
        return None, report
    return {name: mlir.number(a) for name, a in mlir.attributes_of(marks[0]).items()}, report


keys, queries = jnp.arange(C), lambda t: jnp.arange(t)[:, None]
CAUSAL = {
    "compare": lambda t: lambda i: keys <= i + queries(t),
    "other way round": lambda t: lambda i: i + queries(t) >= keys,
    "not greater": lambda t: lambda i: ~(keys > i + queries(t)),
    "less than one more": lambda t: lambda i: keys < i + queries(t) + 1,
    "distance": lambda t: lambda i: i + queries(t) - keys >= 0,
    "and not beyond the last": lambda t: lambda i: (keys < i + t) & (keys <= i + queries(t)),
    "rows of a triangle": lambda t: (
        lambda i: lax.dynamic_slice_in_dim(jnp.tril(jnp.ones((C, C), bool)), i, t)
    ),
    "rows of numpy's triangle": lambda t: (
        lambda i: lax.dynamic_slice_in_dim(jnp.asarray(np.tri(C, dtype=bool)), i, t)
    ),
    "numbers": lambda t: lambda i: (keys <= i + queries(t)).astype(jnp.float32) > 0,
    "where": lambda t: lambda i: jnp.where(keys > i + queries(t), False, True),
    "float positions": lambda t: (
        lambda i: keys.astype(jnp.float32) <= (i + queries(t)).astype(jnp.float32)
    ),
}


@pytest.mark.parametrize("n_tokens", [1, 3])
@pytest.mark.parametrize("name", CAUSAL)
def test_ways_to_say_causal(name, n_tokens):
    found, report = raised(*attention(CAUSAL[name](n_tokens), n_tokens))
    assert found is not None, report.left
    assert found["window"] == 0
    assert found["scale"] == pytest.approx(D**-0.5)


def test_window():
    def mask(index):
        at = index + queries(3)
        return (keys <= at) & (keys > at - 5)

    found, report = raised(*attention(mask, 3))
    assert found is not None, report.left
    assert found["window"] == 5


def biased(scores, seen):
    return scores + jnp.where(seen, 0.0, BIG)


def biased_by_product(scores, seen):
    return scores + (1.0 - seen.astype(jnp.float32)) * BIG


@pytest.mark.parametrize("masked", [biased, biased_by_product])
def test_mask_as_a_bias(masked):
    found, report = raised(*attention(CAUSAL["compare"](3), 3, masked=masked))
    assert found is not None, report.left


WRONG = {
    "one too few": lambda i: keys < i,
    "one too many": lambda i: keys <= i + 1,
    "none": lambda i: jnp.ones(C, bool),
    "all but the first": lambda i: (keys <= i) & (keys > 0),
    "either": lambda i: (keys <= i) | (keys > 12),
    "reversed": lambda i: keys >= i,
    "every second": lambda i: (keys <= i) & (keys % 2 == 0),
    "a fixed window": lambda i: (keys <= i) & (keys < 4),
    "squared": lambda i: keys * keys <= i,
    "wrapped": lambda i: keys <= (i + 1) % C,
}


@pytest.mark.parametrize("name", WRONG)
def test_another_mask_is_left_alone(name):
    found, report = raised(*attention(WRONG[name]))
    assert found is None
    assert __file__ in report.left[0], "it names the line"


def test_several_tokens_with_the_mask_of_one_are_left_alone():
    found, report = raised(*attention(lambda i: keys <= i, n_tokens=3))
    assert found is None
    assert "the same for all new tokens" in report.left[0]


def test_hidden_keys_that_still_count_are_left_alone():
    def masked(scores, seen):
        return jnp.where(seen, scores, -10.0)

    found, report = raised(*attention(CAUSAL["compare"](1), masked=masked))
    assert found is None
    assert "-10.0" in report.left[0]


OPERATORS = {"<=": operator.le, "<": operator.lt, ">": operator.gt, ">=": operator.ge}
LIMITS = st.tuples(
    st.sampled_from(["<=", "<=", "<=", "<", ">", ">="]),
    st.sampled_from([1, 1, 1, 0]),  # x index
    st.sampled_from([1, 1, 1, 0]),  # x query
    st.sampled_from([0, 0, 0, 1, -1]) | st.integers(-C, C),
)


def test_what_is_raised_sees_what_the_mark_sees():
    """Masks put together at random: one is raised only if it is the mark's for every index."""
    n_raised = 0

    @settings(max_examples=40, deadline=None, database=None)
    @given(
        causal=st.sampled_from([True, True, False]),  # alone, few masks are
        limits=st.lists(LIMITS, max_size=2),
        join=st.sampled_from([operator.and_, operator.and_, operator.or_]),
        n_tokens=st.sampled_from([1, 1, 3]),
    )
    def check(causal, limits, join, n_tokens):
        limits = [*([("<=", 1, 1, 0)] if causal or not limits else []), *limits]

        def mask(index, numpy=jnp):
            j, t = numpy.arange(C), numpy.arange(n_tokens)[:, None]
            parts = [OPERATORS[o](j, a * index + b * t + c) for o, a, b, c in limits]
            return functools.reduce(join, parts)

        found, _ = raised(*attention(mask, n_tokens))
        if found is None:
            return
        nonlocal n_raised
        n_raised += 1
        for index in range(C - n_tokens + 1):
            at = index + np.arange(n_tokens)[:, None]
            expected = np.arange(C) <= at
            if found["window"]:
                expected &= np.arange(C) > at - found["window"]
            np.testing.assert_array_equal(mask(index, np), expected)

    check()
    assert n_raised >= 6
