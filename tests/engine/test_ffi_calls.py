"""XLA's calls to the engine: the operands, results and attributes that nsp/ops.py names."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engine_oracle import fill, int32, normal

from nspjax import _engine
from nspjax.compiler import nsp
from nspjax.errors import InvalidArgumentError, engine_errors
from nspjax.runtime.targets import register_targets
from nspjax.runtime.trace import TraceKind, trace_events

ROWS, TOKENS, HEADS, D, TILE = 2, 100, 2, 32, 16
HANDLE = jax.ShapeDtypeStruct((4,), jnp.int32)
TICKET = jax.ShapeDtypeStruct((2,), jnp.int32)
TOKEN = jax.ShapeDtypeStruct((1,), jnp.int32)
KV = jax.ShapeDtypeStruct((ROWS, 3, HEADS, D), jnp.float32)
OUT = jax.ShapeDtypeStruct((ROWS, 1, 2 * HEADS, D), jnp.float32)
LSE = jax.ShapeDtypeStruct(OUT.shape[:3], jnp.float32)
WEIGHT = jax.ShapeDtypeStruct((3, 4), jnp.int16)
SETTINGS = {
    "scale": np.float32(0.1), "window": 0, "softcap": np.float32(0), "read_ahead": 0,
    "mass": np.float32(1), "budget": np.float32(1), "block_tokens": 0,
}  # fmt: skip


@pytest.fixture
def store(open_store):
    register_targets()
    return open_store(1)


def filled(store):
    """The handles of keys and values."""
    rng = np.random.default_rng(0)
    (cache,) = store.create_caches(1, ROWS, 2 * TOKENS, HEADS, D, "f32", TILE)
    k, v = (normal(rng, (ROWS, TOKENS, HEADS, D)) for _ in "kv")
    version = fill(store, cache, k, v, [TOKENS] * ROWS)
    return tuple(map(jnp.asarray, store.cache_handles(cache, version)))


def call(op, results, *operands, **attributes):
    name = op.name.replace("nsp.", "nspjax.") if isinstance(op, nsp.Op) else op
    return jax.ffi.ffi_call(name, results, has_side_effect=True)(*operands, **attributes)


def test_a_step(store):
    """append, prefetch, attend_start, writeback, attend_wait, each naming what comes before it."""
    handles = filled(store)
    rng = np.random.default_rng(1)
    k, v = (normal(rng, (ROWS, 1, HEADS, D)) for _ in "kv")
    q = normal(rng, OUT.shape)

    @jax.jit
    def step(handles, q, k, v):
        rows, start = jnp.arange(ROWS), jnp.full(ROWS, TOKENS)
        one = jnp.ones(ROWS, jnp.int32)
        appended = call(nsp.APPEND, [HANDLE, HANDLE], *handles, k, v, rows, start, one, hold=1)
        token = call(nsp.PREFETCH, TOKEN, *appended, rows, start, q, most_bytes=1 << 20)
        ticket, *handles = call(
            nsp.ATTEND_START, [TICKET, HANDLE, HANDLE], *appended, q, rows, start, start + 1, token,
            **SETTINGS,
        )  # fmt: skip
        written = call(nsp.WRITEBACK, TOKEN, *handles, ticket, interval_tokens=1, exclusive=1)
        out, lse = call(nsp.ATTEND_WAIT, [OUT, LSE], ticket, written)
        return out, lse, handles, (token, written)

    cache, version = store.read_cache_handles(*map(np.asarray, handles))
    out, lse, handles, tokens = step(handles, q, k, v)
    assert [token.tolist() for token in tokens] == [[0], [0]]
    assert store.read_cache_handles(*map(np.asarray, handles)) == (cache, version + 1)
    length = int32([TOKENS + 1] * ROWS)
    expected = store.attend(cache, version + 1, q, int32(range(ROWS)), length - 1, length, 0.1)
    np.testing.assert_array_equal(out, expected[0])
    np.testing.assert_array_equal(lse, expected[1])
    events = trace_events(store.trace())
    kinds = [kind for kind in events["kind"].tolist() if kind > TraceKind.pack]
    assert kinds == [
        TraceKind.prefetch, TraceKind.attend_start, TraceKind.writeback, TraceKind.attend_wait
    ]  # fmt: skip
    assert np.isin(events["kind"], TraceKind.write).sum() > 0


# ---- wrong calls --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Call:
    """One right call of a target."""

    target: str
    operands: tuple[Any, ...]
    results: tuple[Any, ...]
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    free: tuple[int, ...] = ()
    """results of which the engine knows the bytes alone"""

    def run(self, **changes):
        made = dataclasses.replace(self, **changes)
        with engine_errors():
            return jax.block_until_ready(
                call(made.target, list(made.results), *made.operands, **made.attributes)
            )


def right_calls(store) -> dict[str, Callable[[], Call]]:
    """Of every target; made anew for each use, since some use up what they are given."""
    cache, _ = store.read_cache_handles(*map(np.asarray, filled(store)))

    def handles():
        return tuple(map(jnp.asarray, store.cache_handles(cache, store.version(cache))))

    rows, at = jnp.arange(ROWS), jnp.full(ROWS, TOKENS)
    q, kv = jnp.ones(OUT.shape), jnp.ones(KV.shape)
    weight = jnp.asarray(store.weight_handle(store.put_weight(np.zeros((3, 4), np.int16))))
    query = (q, rows, at - 1, at)
    hh = (HANDLE, HANDLE)

    def append():
        start, n_new = jnp.asarray(int32(store.lengths(cache))), jnp.zeros(ROWS, jnp.int32)
        return Call("nspjax.append", (*handles(), kv, kv, rows, start, n_new), hh, {"hold": 0})

    def wait():
        ticket, *_ = Call(
            "nspjax.attend_start", (*handles(), *query), (TICKET, *hh), SETTINGS
        ).run()
        return Call("nspjax.attend_wait", (ticket,), (OUT, LSE))

    def of(target, operands, results, free=(), **attributes):
        return lambda: Call(target, (*handles(), *operands), results, attributes, free)

    calls = {
        "append": append,
        "attend": of("nspjax.attend", query, (OUT, LSE, *hh), **SETTINGS),
        "attend_start": of("nspjax.attend_start", query, (TICKET, *hh), **SETTINGS),
        "attend_wait": wait,
        "prefetch": of("nspjax.prefetch", (rows, at), (TOKEN,), most_bytes=0),
        "writeback": of("nspjax.writeback", (), (TOKEN,), interval_tokens=16, exclusive=0),
        "fetch": of(
            "nspjax.fetch", (rows, jnp.zeros(1, jnp.int32), at), (KV, KV, *hh),
            n_tokens=3, window=0, read_ahead=0,
        ),
        "x_cache": of("nspjax.x_cache", (), hh, n_heads=2, head_dim=16),
        "take_rows": of("nspjax.take_rows", (rows[::-1], at), hh),
        "load": lambda: Call("nspjax.load", (weight,), (WEIGHT,), free=(0,)),
        "load_ahead": lambda: Call("nspjax.load_ahead", (weight,), (TOKEN,)),
    }  # fmt: skip
    if _engine.can_dot():
        x, w = jnp.ones((3, 32), jnp.bfloat16), jnp.ones((32, 64), jnp.bfloat16)
        dot = jax.ShapeDtypeStruct((3, 64), jnp.float32)
        calls["dot"] = lambda: Call("nspjax.dot", (x, w), (dot,), {"transposed": 0})
    return calls


def wrong_shapes(shape):
    """One axis more, less, longer, shorter; two axes swapped."""
    yield (*shape, 1)
    yield (1, *shape)
    yield shape[:-1]
    for axis, size in enumerate(shape):
        for other in (size + 1, size - 1):
            yield (*shape[:axis], other, *shape[axis + 1 :])
    if len(shape) > 1 and shape[0] != shape[1]:
        yield (shape[1], shape[0], *shape[2:])


def refused(call, **changes):
    with pytest.raises(InvalidArgumentError):
        call.run(**changes)


def test_every_target_has_a_right_call(store):
    made = right_calls(store)
    known = {name.removeprefix("nspjax.") for name in _engine.registrations()}
    assert known - {"dot"} == set(made) - {"dot"}
    for make in made.values():
        make().run()


def test_results_of_another_shape_or_type_are_refused(store):
    """Whatever is written, is written into a buffer of just that size."""
    for make in right_calls(store).values():
        right = make()
        for i, result in enumerate(right.results):

            def changed(to, i=i, results=right.results):
                return (*results[:i], to, *results[i + 1 :])

            for shape in wrong_shapes(result.shape):
                if i in right.free and np.prod(shape) == np.prod(result.shape):
                    continue
                other = jax.ShapeDtypeStruct(shape, result.dtype)
                refused(make(), results=changed(other))
            wider = jnp.float16 if result.dtype == jnp.float32 else jnp.int8
            for dtype in (wider, jnp.int4):
                other = jax.ShapeDtypeStruct(result.shape, dtype)
                refused(make(), results=changed(other))
        refused(make(), results=(*right.results, TOKEN))
        if len(right.results) > 1:
            refused(make(), results=right.results[:-1])


def test_operands_of_another_shape_or_type_are_refused(store):
    for name, make in right_calls(store).items():
        right = make()
        for i, operand in enumerate(right.operands):

            def changed(to, i=i, operands=right.operands):
                return (*operands[:i], to, *operands[i + 1 :])

            batched = operand.ndim in (1, 4) and operand.shape[0] == ROWS
            for shape in wrong_shapes(operand.shape):
                if operand.ndim == 4 and shape[2:] == operand.shape[2:] and shape[0] == ROWS:
                    continue  # another number of tokens
                if (
                    name in ("attend", "attend_start")
                    and operand.ndim == 4
                    and shape[2] % HEADS == 0
                ):
                    continue  # another number of query heads
                if name == "prefetch" and batched and shape == ():
                    continue
                refused(make(), operands=changed(jnp.zeros(shape, operand.dtype)))
            refused(make(), operands=changed(operand.astype(jnp.uint32)))
        refused(make(), operands=right.operands[:-1])


def test_attributes_that_are_wrong_are_refused(store):
    for make in right_calls(store).values():
        right = make()
        for name in right.attributes:
            rest = {key: value for key, value in right.attributes.items() if key != name}
            refused(make(), attributes=rest)
            refused(make(), attributes={**rest, name: "text"})
        refused(make(), attributes={**right.attributes, "more": 1})
    bad = {
        "attend": [{"window": -1}, {"softcap": np.float32(-1)}, {"softcap": np.float32("nan")}],
        "attend_start": [
            {"window": -(2**63)},
            {"softcap": np.float32("nan")},
            *({name: np.float32(x)} for name in ("mass", "budget") for x in (-1, 0, 2, "nan")),
        ],
        "prefetch": [{"most_bytes": -1}, {"most_bytes": -(2**63)}],
        "writeback": [{"interval_tokens": 0}, {"interval_tokens": -(2**63)}],
        "fetch": [
            *({"n_tokens": n} for n in (0, -1, 2, 4, 2**62, 2**63 - 1, -(2**63))),
            *({"window": n} for n in (-1, -(2**63))),
        ],
        "x_cache": [
            {name: n} for name in ("n_heads", "head_dim") for n in (0, -1, 2**62, 2**63 - 1)
        ],
    }
    calls = right_calls(store)
    for target, changes in bad.items():
        for change in changes:
            right = calls[target]()
            with pytest.raises(InvalidArgumentError):
                right.run(attributes={**right.attributes, **change})


def test_values_that_are_out_of_range_are_refused(store):
    """Of rows, starts, positions and lengths, in every place; the store goes on."""
    calls, extremes = right_calls(store), (-(2**31), -1, 2**31 - 1)
    for name, places in {"attend": (3, 4, 5), "fetch": (2, 3, 4), "append": (4, 5, 6)}.items():
        for place in places:
            for value in extremes:
                right = calls[name]()
                operands = list(right.operands)
                if name == "append" and place != 6:
                    operands[6] = jnp.ones(ROWS, jnp.int32)
                operands[place] = jnp.full(operands[place].shape, value, jnp.int32)
                far = (name, place, value) in (
                    ("attend", 4, extremes[2]),
                    ("fetch", 3, extremes[2]),
                )
                if far:  # a query behind every token sees all of them, a chunk there is empty
                    right.run(operands=tuple(operands))
                    continue
                with pytest.raises(InvalidArgumentError):
                    right.run(operands=tuple(operands))
    for make in right_calls(store).values():
        make().run()


def test_messages_name_the_buffer(store):
    calls = right_calls(store)
    for name, change, message in [
        (
            "attend_start",
            {"results": (TOKEN, HANDLE, HANDLE)},
            r"ticket is \[1\], it must be \[2\]",
        ),
        ("attend_wait", {"results": (LSE, LSE)}, r"out is \[2, 1, 4\], it must be \[B = 2, T = 1,"),
        ("prefetch", {"results": (TICKET,)}, r"nspjax.prefetch: done is \[2\], it must be \[1\]"),
        (
            "x_cache",
            {"results": (HANDLE, TICKET)},
            r"nspjax.x_cache: x_v is \[2\], it must be \[4\]",
        ),
        ("prefetch", {"results": ()}, r"nspjax.prefetch was given 0 results: done is missing"),
        ("load", {"results": (WEIGHT, TOKEN)}, r"nspjax.load has 1 results, got 2"),
        ("x_cache", {"attributes": {"n_heads": 1}}, r"nspjax.x_cache: .*head_dim is missing, i64"),
        (
            "x_cache",
            {"attributes": {"n_heads": 1, "head_dim": np.float32(1)}},
            r"head_dim is of an",
        ),
        ("load", {"attributes": {"more": 1}}, r"nspjax.load has no attribute more"),
    ]:
        with pytest.raises(InvalidArgumentError, match=message):
            calls[name]().run(**change)
