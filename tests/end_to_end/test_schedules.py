"""Schedules on the real engine: the tokens do not change, and the trace has the promised order."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from nspjax import Store, near_storage
from nspjax.models import load_decoder
from nspjax.runtime.trace import TraceKind

CHECKPOINT = Path(__file__).parents[1] / "models" / "goldens" / "llama"
ROWS, PROMPT_TOKENS, STEPS, CAPACITY, TILE_TOKENS = 3, 60, 40, 128, 16
SPLIT = "offload-kv,split-attention,"
PLACEMENTS = ["anywhere", "outside-scan", "step-end"]


@pytest.fixture(scope="module")
def model():
    decoder = load_decoder(CHECKPOINT, dtype="float32")
    return nnx.split(decoder)


@pytest.fixture
def file_store(tmp_path):
    devices = [tmp_path / "a", tmp_path / "b"]
    for directory in devices:
        directory.mkdir()
    with Store(*devices, host_memory="16MiB", pinned=0) as store:
        yield store


@pytest.fixture(params=["memory", "file"])
def store(request):
    if request.param == "file":
        yield request.getfixturevalue("file_store")
        return
    with Store("memory:", "memory:", host_memory="16MiB", pinned=0) as store:
        yield store


def stored_caches(store, model):
    in_memory = nnx.merge(*model).init_caches(ROWS, CAPACITY)
    _, _, n_kv_heads, head_dim = in_memory[0].k.shape
    return store.kv_caches(
        len(in_memory),
        batch=ROWS,
        capacity_tokens=CAPACITY,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        dtype=jnp.float32,
        interval_tokens=TILE_TOKENS,
    )


def prompt():
    return (
        jax.random.randint(jax.random.key(0), (ROWS, PROMPT_TOKENS), 3, 90),
        jnp.array([PROMPT_TOKENS, 7, 33], jnp.int32),
    )


def functions(graph):
    """prefill(state, caches, tokens, n_new) -> caches, first token; decode(state, caches, token)
    -> caches, greedy tokens [STEPS, ROWS]."""

    def prefill(state, caches, tokens, n_new):
        model = nnx.merge(graph, state)
        hidden, caches = model(tokens, caches, n_new=n_new)
        last = jnp.take_along_axis(hidden, (n_new - 1)[:, None, None], axis=1)
        return caches, model.logits(last[:, 0]).argmax(-1).astype(jnp.int32)

    def decode(state, caches, token):
        def step(carry):
            i, caches, token, tokens = carry
            model = nnx.merge(graph, state)
            hidden, caches = model(token[:, None], caches)
            token = model.logits(hidden[:, 0]).argmax(-1).astype(jnp.int32)
            return i + 1, caches, token, tokens.at[i].set(token)

        tokens = jnp.zeros((STEPS, ROWS), jnp.int32)
        _, caches, _, tokens = lax.while_loop(
            lambda carry: carry[0] < STEPS, step, (jnp.int32(0), caches, token, tokens)
        )
        return caches, tokens

    return prefill, decode


@pytest.fixture(scope="module")
def expected(model):
    """Greedy tokens with the caches in memory."""
    graph, state = model
    prefill, decode = map(jax.jit, functions(graph))
    caches, token = prefill(state, nnx.merge(*model).init_caches(ROWS, CAPACITY), *prompt())
    return np.asarray(decode(state, caches, token)[1])


def run(model, store, pipeline):
    """Prefill, then decode; the tokens, and the trace of the decode call alone."""
    graph, state = model
    prefill, decode = (near_storage(fn, store=store, pipeline=pipeline) for fn in functions(graph))
    caches, token = prefill(state, stored_caches(store, model), *prompt())
    store.flush()
    events_before = store.trace()
    caches, tokens = decode(state, caches, token)
    store.flush()
    events = store.trace()
    begin_ns = events_before["end_ns"].max()
    return np.asarray(tokens), events[events["begin_ns"] > begin_ns], caches


@pytest.mark.parametrize(
    "pipeline",
    [
        "ans",
        "ans+writeback",
        "offload-kv,delay-writeback,prefetch,lower-to-ffi",
        *(
            f"{SPLIT}delay-writeback{{interval=4 placement={placement}}},"
            "prefetch{distance=2 order=backward},lower-to-ffi"
            for placement in PLACEMENTS
        ),
    ],
)
def test_the_tokens_are_those_of_a_cache_in_memory(model, expected, store, pipeline):
    tokens, _, caches = run(model, store, pipeline)
    np.testing.assert_array_equal(tokens, expected)
    assert store.fetch(caches[-1]).lengths.tolist() == [n + STEPS for n in prompt()[1].tolist()]


def calls(events, *kinds):
    """(kind, cache) of the events of some kinds, as they began."""
    chosen = events[np.isin(events["kind"], kinds)]
    chosen = chosen[np.argsort(chosen["begin_ns"], kind="stable")]
    return [(TraceKind(kind), int(cache)) for kind, cache in chosen[["kind", "cache"]].tolist()]


def layer_ids(caches):
    return [int(cache.k[1]) for cache in caches]


def test_the_next_layer_is_announced_before_this_one_is_waited_for(model, store):
    _, events, caches = run(model, store, "ans+writeback")
    layers = layer_ids(caches)
    step = []
    for layer, following in zip(layers, [*layers[1:], layers[0]], strict=True):
        step += [
            (TraceKind.prefetch, following),
            (TraceKind.attend_start, layer),
            (TraceKind.attend_wait, layer),
        ]
    assert len(layers) > 1
    assert calls(events, *{kind for kind, _ in step}) == step * STEPS


@pytest.mark.parametrize("placement", ["outside-scan", "step-end"])
def test_no_write_overlaps_a_scan(model, file_store, placement):
    pipeline = f"{SPLIT}delay-writeback{{interval=4 placement={placement}}},prefetch,lower-to-ffi"
    _, events, caches = run(model, file_store, pipeline)
    writes = events[events["kind"] == TraceKind.write]
    scans = events[events["kind"] == TraceKind.attend]
    assert len(scans) == STEPS * len(caches)
    # every fourth step has some, but perhaps the first and the last
    before_the_end = writes[writes["begin_ns"] < scans["end_ns"].max()]
    assert len(before_the_end) >= (STEPS // 4 - 2) * len(caches)
    for write in writes:
        overlap = (scans["begin_ns"] < write["end_ns"]) & (write["begin_ns"] < scans["end_ns"])
        assert not overlap.any()
        if placement == "step-end":
            assert (scans["end_ns"] <= write["begin_ns"]).sum() % len(caches) == 0


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_tokens_are_held_until_the_interval(model, tmp_path, placement):
    """An interval above what is decoded writes nothing before the end; 1 does in each step."""
    n_writes = {}
    for interval in (1, 1000):
        directory = tmp_path / str(interval)
        directory.mkdir()
        with Store(directory, host_memory="16MiB", pinned=0) as store:
            pipeline = (
                f"{SPLIT}delay-writeback{{interval={interval} placement={placement}}},lower-to-ffi"
            )
            _, events, caches = run(model, store, pipeline)
            writes = events[events["kind"] == TraceKind.write]
            scans = events[events["kind"] == TraceKind.attend]
            n_writes[interval] = len(writes[writes["begin_ns"] < scans["end_ns"].max()])
    assert n_writes[1000] == 0
    assert n_writes[1] >= (STEPS - 1) * len(caches)
