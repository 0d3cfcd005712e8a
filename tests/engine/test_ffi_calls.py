"""XLA's calls to the engine: the operands, results and attributes that nsp.py names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_oracle import fill, int32, normal

from nspjax.compiler import nsp
from nspjax.errors import InvalidArgumentError, engine_errors
from nspjax.runtime.targets import register_targets
from nspjax.runtime.trace import TraceKind, trace_events

ROWS, TOKENS, HEADS, D, TILE = 2, 100, 2, 32, 16
HANDLE = jax.ShapeDtypeStruct((3,), jnp.int32)
TICKET = jax.ShapeDtypeStruct((2,), jnp.int32)
TOKEN = jax.ShapeDtypeStruct((1,), jnp.int32)
OUT = jax.ShapeDtypeStruct((ROWS, 1, 2 * HEADS, D), jnp.float32)
LSE = jax.ShapeDtypeStruct(OUT.shape[:3], jnp.float32)
SETTINGS = {"scale": np.float32(0.1), "window": 0, "softcap": np.float32(0), "read_ahead": 0}


@pytest.fixture
def store(open_store):
    register_targets()
    return open_store(1)


def filled(store):
    rng = np.random.default_rng(0)
    (cache,) = store.create_caches(1, ROWS, 2 * TOKENS, HEADS, D, "f32", TILE)
    k, v = (normal(rng, (ROWS, TOKENS, HEADS, D)) for _ in "kv")
    return jnp.array([store.id, cache, fill(store, cache, k, v, [TOKENS] * ROWS)], jnp.int32)


def call(op, results, *operands, **attributes):
    name = op.name.replace("nsp.", "nspjax.")
    return jax.ffi.ffi_call(name, results, has_side_effect=True)(*operands, **attributes)


def test_a_step(store):
    """append, prefetch, attend_start, writeback, attend_wait, each naming what comes before it."""
    handle = filled(store)
    rng = np.random.default_rng(1)
    k, v = (normal(rng, (ROWS, 1, HEADS, D)) for _ in "kv")
    q = normal(rng, OUT.shape)

    @jax.jit
    def step(handle, q, k, v):
        rows, start = jnp.arange(ROWS), jnp.full(ROWS, TOKENS)
        one = jnp.ones(ROWS, jnp.int32)
        appended = call(
            nsp.APPEND, [HANDLE, HANDLE], handle, handle, k, v, rows, start, one, hold=1
        )
        token = call(nsp.PREFETCH, TOKEN, *appended, rows, start, q, most_bytes=1 << 20)
        ticket, *handles = call(
            nsp.ATTEND_START, [TICKET, HANDLE, HANDLE], *appended, q, rows, start, start + 1, token,
            **SETTINGS,
        )  # fmt: skip
        written = call(nsp.WRITEBACK, TOKEN, *handles, ticket, interval_tokens=1, exclusive=1)
        out, lse = call(nsp.ATTEND_WAIT, [OUT, LSE], ticket, written)
        return out, lse, handles, (token, written)

    out, lse, handles, tokens = step(handle, q, k, v)
    assert [token.tolist() for token in tokens] == [[0], [0]]
    assert handles[0].tolist() == handles[1].tolist() == [*handle.tolist()[:2], 2]
    cache, version = handles[0].tolist()[1:]
    length = int32([TOKENS + 1] * ROWS)
    expected = store.attend(cache, version, q, int32(range(ROWS)), length - 1, length, 0.1)
    np.testing.assert_array_equal(out, expected[0])
    np.testing.assert_array_equal(lse, expected[1])
    events = trace_events(store.trace())
    kinds = [kind for kind in events["kind"].tolist() if kind > TraceKind.pack]
    assert kinds == [
        TraceKind.prefetch, TraceKind.attend_start, TraceKind.writeback, TraceKind.attend_wait
    ]  # fmt: skip
    assert np.isin(events["kind"], TraceKind.write).sum() > 0


def test_wrong_calls(store):
    handle = filled(store)
    q, at = jnp.ones(OUT.shape), jnp.full(ROWS, TOKENS)
    rows = jnp.arange(ROWS)

    def start(*results):
        return call(
            nsp.ATTEND_START, list(results), handle, handle, q, rows, at - 1, at, **SETTINGS
        )

    def refused(message, run):
        with pytest.raises(InvalidArgumentError, match=message), engine_errors():
            jax.block_until_ready(run())

    refused("a ticket has 2 integers, the result has 1", lambda: start(TOKEN, HANDLE, HANDLE))
    refused("a ticket has 2 integers, got 3", lambda: call(nsp.ATTEND_WAIT, [OUT, LSE], handle))
    ticket, *_ = start(TICKET, HANDLE, HANDLE)
    refused(r"its results are \[2, 1, 4, 32\]", lambda: call(nsp.ATTEND_WAIT, [LSE, LSE], ticket))
    refused(
        "rows has 2 values, length 1",
        lambda: call(nsp.PREFETCH, TOKEN, handle, handle, rows, at[:1], most_bytes=0),
    )
