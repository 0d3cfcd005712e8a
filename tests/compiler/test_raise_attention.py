"""Models that were written without nspjax give in a store what they give in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export, lax
from unmarked_models import HEADS, VOCAB, GemmaDecoder, LinenDecoder, NnxDecoder

from nspjax import Store, near_storage
from nspjax.compiler import mlir
from nspjax.compiler.driver.presets import PRESETS
from nspjax.compiler.passes.raise_attention import raise_attention
from nspjax.errors import InvalidArgumentError, OffloadError, StaleHandleError

PIPELINE = "raise-attention,offload-kv,lower-to-ffi"
ROWS, CAPACITY, STEPS = 3, 32, 9


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    device = "memory:" if request.param == "memory" else tmp_path
    with Store(device, host_memory="16MiB") as store:
        yield store


def prompt(n_tokens=3):
    return jax.random.randint(jax.random.key(7), (ROWS, n_tokens), 1, VOCAB)


def in_store(store, tree, k="k", v="v"):
    """The tree with a StoredArray in the place of every array that is named k or v in it."""
    found = {jax.tree_util.keystr(path): leaf for path, leaf in leaves_with_names(tree)}
    stored = {}
    for name in found:
        if k in name:
            other = name.replace(k, v)
            stored[name], stored[other] = store.kv_pair(found[name], found[other])
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: stored.get(jax.tree_util.keystr(path), leaf), tree
    )


def leaves_with_names(tree):
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def generate(step, cache, tokens, loop):
    """The prompt by decode steps of one token, then greedy tokens: (tokens, logits, cache)."""
    steps = STEPS if loop else tokens.shape[1] + 1

    def body(carry):
        i, row, _, cache = carry
        token = lax.dynamic_slice_in_dim(row, i, 1, axis=1)
        logits, cache = step(token, cache)
        given = i + 1 < tokens.shape[1]
        new = jnp.where(
            given,
            lax.dynamic_slice_in_dim(row, i + 1, 1, axis=1),
            logits.argmax(-1).astype(row.dtype),
        )
        return i + 1, lax.dynamic_update_slice(row, new, (0, i + 1)), logits, cache

    row = jnp.zeros((ROWS, steps + 1), tokens.dtype).at[:, : tokens.shape[1]].set(tokens)
    carry = (jnp.int32(0), row, jnp.zeros((ROWS, 1, VOCAB)), cache)
    if loop:
        carry = lax.while_loop(lambda carry: carry[0] < steps, body, carry)
    else:
        for _ in range(steps):
            carry = body(carry)
    return carry[1:]


# ---- the three models: (cache, names of k and v, generate(cache, tokens, loop)) ------------------


def nnx_model(kv_heads):
    model = NnxDecoder(kv_heads=kv_heads, rngs=nnx.Rngs(0))
    model.init_cache(ROWS, CAPACITY)
    graph, cache, weights = nnx.split(model, nnx.Cache, ...)

    def run(weights, cache, tokens, loop):
        def step(token, cache):
            model = nnx.merge(graph, cache, weights)
            logits = model(token)
            return logits, nnx.split(model, nnx.Cache, ...)[1]

        return generate(step, cache, tokens, loop)

    return weights, cache, ("cached_key", "cached_value"), run


def linen_model():
    model = LinenDecoder()
    variables = model.init(jax.random.key(0), jnp.ones((ROWS, CAPACITY), jnp.int32))

    def run(weights, cache, tokens, loop):
        def step(token, cache):
            logits, changed = model.apply(
                {"params": weights, "cache": cache}, token, mutable=["cache"]
            )
            return logits, changed["cache"]

        return generate(step, cache, tokens, loop)

    return variables["params"], variables["cache"], ("cached_key", "cached_value"), run


def gemma_model(kv_heads, softcap=None, window=None):
    model = GemmaDecoder(kv_heads=kv_heads, softcap=softcap, window=window, rngs=nnx.Rngs(0))
    graph, weights = nnx.split(model)

    def run(weights, cache, tokens, loop):
        def step(token, cache):
            positions = cache["layer_0"]["end_index"][:, None]
            mask = jnp.arange(CAPACITY) <= positions[..., None]
            return nnx.merge(graph, weights)(token, positions, cache, mask)

        return generate(step, cache, tokens, loop)

    return weights, model.init_cache(ROWS, CAPACITY), ("['k']", "['v']"), run


MODELS = {
    "nnx": lambda: nnx_model(HEADS),
    "nnx-grouped": lambda: nnx_model(2),
    "linen": linen_model,
    "gemma": lambda: gemma_model(HEADS),
    "gemma-grouped-softcap": lambda: gemma_model(2, softcap=20.0),
    "gemma-one-kv-head-window": lambda: gemma_model(1, window=6),
}


QUICK = ("nnx", "linen", "gemma-grouped-softcap")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in MODELS],
)
def test_decode_in_a_loop_is_as_in_memory(store, name):
    check_generate(store, *MODELS[name](), loop=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_unrolled_decode_is_as_in_memory(name):
    with Store("memory:", host_memory="16MiB") as store:
        check_generate(store, *MODELS[name](), loop=False)


@pytest.mark.parametrize("preset", ["baseline", "ans+writeback"])
def test_the_other_passes_take_what_was_raised(preset):
    weights, cache, names, run = gemma_model(2, softcap=20.0)
    pipeline = f"raise-attention,{PRESETS[preset]}"
    with Store("memory:", host_memory="16MiB") as store:
        check_generate(store, weights, cache, names, run, loop=True, pipeline=pipeline)


def check_generate(store, weights, cache, names, run, loop, pipeline=PIPELINE):
    tokens = prompt()
    jitted = jax.jit(run, static_argnums=3)
    expected, expected_logits, _ = jitted(weights, cache, tokens, loop)
    assert len(np.unique(expected[:, 3:])) > 1, "the model says one token always"

    near = near_storage(lambda *args: run(*args, loop), store=store, pipeline=pipeline)
    got, logits, after = jax.jit(near)(weights, in_store(store, cache, *names), tokens)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(logits, expected_logits, atol=1e-5)
    assert jax.tree.structure(after) == jax.tree.structure(in_store(store, cache, *names))


# ---- several tokens at once, positions kept twice ------------------------------------------------


def gemma_steps(model, capacity=CAPACITY):
    """(weights, fn(weights, tokens [B, T], step, cache)): the caller makes positions and the mask
    from a step that it counts itself, as samplers do."""
    graph, weights = nnx.split(model)

    def fn(weights, tokens, step, cache):
        positions = jnp.broadcast_to(step + jnp.arange(tokens.shape[1]), tokens.shape)
        mask = jnp.arange(capacity) <= positions[..., None]
        return nnx.merge(graph, weights)(tokens, positions, cache, mask)

    return weights, fn


@pytest.mark.parametrize("window", [None, 6])
def test_prefill_then_decode_is_as_in_memory(store, window):
    model = GemmaDecoder(kv_heads=2, softcap=20.0, window=window, rngs=nnx.Rngs(0))
    weights, fn = gemma_steps(model)
    cache = model.init_cache(ROWS, CAPACITY)
    stored = in_store(store, cache, "['k']", "['v']")
    near = near_storage(fn, store=store, pipeline=PIPELINE)
    in_memory, tokens = jax.jit(fn), prompt(16)
    at = 0
    for n_tokens in (7, 1, 1, 4, 1):
        part, step = tokens[:, at : at + n_tokens], jnp.int32(at)
        expected, cache = in_memory(weights, part, step, cache)
        got, stored = near(weights, part, step, stored)
        np.testing.assert_allclose(got, expected, atol=1e-5)
        at += n_tokens


def test_positions_that_part_are_an_error():
    """The mask's position and the cache's are two inputs: that they agree is seen when it runs."""
    model = GemmaDecoder(kv_heads=2, rngs=nnx.Rngs(0))
    weights, fn = gemma_steps(model)
    with Store("memory:", host_memory="16MiB") as store:
        stored = in_store(store, model.init_cache(ROWS, CAPACITY), "['k']", "['v']")
        near = near_storage(fn, store=store, pipeline=PIPELINE)
        _, stored = near(weights, prompt(1), jnp.int32(0), stored)
        with pytest.raises(InvalidArgumentError, match="start is -1"):
            near(weights, prompt(1), jnp.int32(2), stored)


def test_a_full_cache_is_an_error_and_does_not_wrap():
    model = GemmaDecoder(kv_heads=2, rngs=nnx.Rngs(0))
    weights, fn = gemma_steps(model, capacity=4)
    with Store("memory:", host_memory="16MiB") as store:
        stored = in_store(store, model.init_cache(ROWS, 4), "['k']", "['v']")
        near = near_storage(fn, store=store, pipeline=PIPELINE)
        _, stored = near(weights, prompt(4), jnp.int32(0), stored)
        with pytest.raises(InvalidArgumentError, match="start is -1"):
            near(weights, prompt(1), jnp.int32(4), stored)


def test_raised_without_a_store_it_computes_the_same():
    """The mark's own computation, put in the place of the model's."""
    weights, cache, _, run = gemma_model(2, softcap=20.0)
    tokens = prompt()
    exported = export.export(jax.jit(run, static_argnums=3))(weights, cache, tokens, True)
    module = mlir.module_of(exported)
    after, report = raise_attention(module)
    assert len(report.raised) == 2
    assert not report.left
    again = mlir.with_module(exported, after, mlir.signature(module))
    expected, logits, _ = exported.call(weights, cache, tokens)
    got, got_logits, _ = again.call(weights, cache, tokens)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(got_logits, logits, atol=1e-5)


def test_bfloat16_is_close():
    model = GemmaDecoder(kv_heads=2, rngs=nnx.Rngs(0))
    weights, fn = gemma_steps(model)
    weights = jax.tree.map(lambda w: w.astype(jnp.bfloat16), weights)
    cache = model.init_cache(ROWS, CAPACITY, jnp.bfloat16)

    def cast(weights, tokens, step, cache):
        logits, cache = fn(weights, tokens, step, cache)
        return logits.astype(jnp.float32), cache

    with Store("memory:", host_memory="16MiB") as store:
        stored = in_store(store, cache, "['k']", "['v']")
        near = near_storage(cast, store=store, pipeline=PIPELINE)
        for at in range(4):
            args = (weights, prompt(4)[:, at : at + 1], jnp.int32(at))
            expected, cache = jax.jit(cast)(*args, cache)
            got, stored = near(*args, stored)
            np.testing.assert_allclose(got, expected, atol=0.05, rtol=0.05)


# ---- what is refused ----------------------------------------------------------------------------


def test_a_mask_that_is_an_input_is_refused():
    model = GemmaDecoder(kv_heads=2, rngs=nnx.Rngs(0))
    graph, weights = nnx.split(model)

    def fn(weights, tokens, mask, cache):
        positions = cache["layer_0"]["end_index"][:, None]
        return nnx.merge(graph, weights)(tokens, positions, cache, mask)

    with Store("memory:", host_memory="16MiB") as store:
        stored = in_store(store, model.init_cache(ROWS, CAPACITY), "['k']", "['v']")
        near = near_storage(fn, store=store, pipeline=PIPELINE)
        mask = jnp.ones((ROWS, 1, CAPACITY), bool)
        with pytest.raises(OffloadError, match="nothing is known of an input: argument") as error:
            near(weights, prompt(1), mask, stored)
    assert "unmarked_models.py" in str(error.value), "it names the model's line"


def test_dropout_is_refused():
    model = LinenDecoder(dropout_rate=0.5)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = model.init(keys, jnp.ones((ROWS, CAPACITY), jnp.int32))

    def fn(weights, cache, tokens, key):
        return model.apply(
            {"params": weights, "cache": cache}, tokens, mutable=["cache"], rngs={"dropout": key}
        )

    with Store("memory:", host_memory="16MiB") as store:
        stored = in_store(store, variables["cache"], "cached_key", "cached_value")
        near = near_storage(fn, store=store, pipeline=PIPELINE)
        with pytest.raises(OffloadError, match="the weights are no softmax") as error:
            near(variables["params"], stored, prompt(1), jax.random.key(2))
    assert "flax/linen/attention.py" in str(error.value)


def test_without_the_pass_the_error_says_to_use_it():
    weights, cache, names, run = linen_model()
    with Store("memory:", host_memory="16MiB") as store:
        near = near_storage(lambda *args: run(*args, True), store=store)
        with pytest.raises(OffloadError, match="raise-attention"):
            near(weights, in_store(store, cache, *names), prompt())


# ---- stored arrays ------------------------------------------------------------------------------


def test_kv_pair_takes_what_it_can_hold():
    with Store("memory:", host_memory="16MiB") as store:
        shape = jax.ShapeDtypeStruct((2, 16, 2, 8), jnp.float32)
        k, v = store.kv_pair(shape, jnp.zeros(shape.shape))
        assert k.shape == v.shape == shape.shape
        assert k.dtype == v.dtype == shape.dtype
        with pytest.raises(InvalidArgumentError, match="hold tokens"):
            store.kv_pair(jnp.ones(shape.shape), jnp.ones(shape.shape))
        with pytest.raises(InvalidArgumentError, match=r"\[B, C, Hkv, D\]"):
            store.kv_pair(jnp.zeros((16, 2, 8)), jnp.zeros((16, 2, 8)))
        with pytest.raises(InvalidArgumentError, match="of one dtype"):
            store.kv_pair(shape, jnp.zeros((2, 16, 4, 8)))


def test_stored_arrays_are_linear():
    model = GemmaDecoder(kv_heads=2, rngs=nnx.Rngs(0))
    weights, fn = gemma_steps(model)
    with Store("memory:", host_memory="16MiB") as store, Store("memory:") as another:
        stored = in_store(store, model.init_cache(ROWS, CAPACITY), "['k']", "['v']")
        near = near_storage(fn, store=store, pipeline=PIPELINE)
        near(weights, prompt(1), jnp.int32(0), stored)
        with pytest.raises(StaleHandleError):
            near(weights, prompt(1), jnp.int32(0), stored)
        elsewhere = near_storage(fn, store=another, pipeline=PIPELINE)
        with pytest.raises(InvalidArgumentError, match="another Store"):
            elsewhere(weights, prompt(1), jnp.int32(0), stored)
