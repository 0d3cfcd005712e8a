"""One trace of XLA's operations and the engine's events: they lie where they belong."""

import collections

import jax
import jax.numpy as jnp
import orjson
import pytest

import nspjax
from nspjax.ops import cached_attention

N_LAYERS, N_STEPS = 3, 4
SLACK_US = 50


def step(x, caches):
    after = []
    for cache in caches:
        out, cache = cached_attention(x, x, x, cache)
        x = jnp.tanh(out @ jnp.ones((out.shape[-1], out.shape[-1])))
        after.append(cache)
    return x, after


@pytest.fixture
def ready(tmp_path):
    """A store, a compiled step, its arguments."""
    with nspjax.Store("memory:") as store:
        caches = store.kv_caches(
            N_LAYERS, batch=2, capacity_tokens=32, n_kv_heads=2, head_dim=8, dtype=jnp.float32
        )
        near = nspjax.near_storage(step, store=store)
        yield store, near, near(jnp.ones((2, 1, 2, 8)), caches)


def drawn(path):
    """(process, name, begin, end) of every event, in the order of their begin."""
    events = orjson.loads(path.read_bytes())["traceEvents"]
    spans = [
        (event["pid"], event["name"], event["ts"], event["ts"] + event["dur"])
        for event in events
        if event["ph"] == "X"
    ]
    return sorted(spans, key=lambda span: span[2])


def calls(spans, pid, name):
    return [span for span in spans if span[0] == pid and span[1].split(".")[0] == name]


def test_the_engines_calls_lie_in_xlas(ready, tmp_path):
    store, near, (x, caches) = ready
    with nspjax.trace(store, tmp_path / "trace.json"):
        for _ in range(N_STEPS):
            x, caches = near(x, caches)
    spans = drawn(tmp_path / "trace.json")
    assert min(begin for _, _, begin, _ in spans) == 0
    for name in ("append", "attend"):
        compiled, engine = calls(spans, 2, f"nspjax_{name}"), calls(spans, 1, name)
        assert len(compiled) == len(engine) == N_LAYERS * N_STEPS
        for (_, _, begin, end), (_, _, call_begin, call_end) in zip(compiled, engine, strict=True):
            assert begin - SLACK_US <= call_begin <= call_end <= end + SLACK_US
    others = collections.Counter(name for pid, name, _, _ in spans if pid == 2)
    assert len(others) > 2 * N_LAYERS, "the rest of the program is there too"


def test_only_what_is_inside(ready, tmp_path):
    store, near, (x, caches) = ready
    with nspjax.trace(store, tmp_path / "nothing.json"):
        pass
    assert drawn(tmp_path / "nothing.json") == []
    near(x, caches)
    assert len(store.trace())


def test_written_after_an_exception_and_usable_again(ready, tmp_path):
    store, near, (x, caches) = ready

    def fails():
        with nspjax.trace(store, tmp_path / "one.json"):
            jax.block_until_ready(near(x, caches)[0])
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert len(calls(drawn(tmp_path / "one.json"), 1, "append")) == N_LAYERS
    with nspjax.trace(store, tmp_path / "two.json"):
        pass
    assert (tmp_path / "two.json").exists()
