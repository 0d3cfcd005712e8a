"""Models that were written without nspjax, and how they run in memory and in a store."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from unmarked_models import VOCAB, GemmaDecoder, LinenDecoder, NnxDecoder

PIPELINE = "raise-attention,offload-kv,lower-to-ffi"
ROWS, CAPACITY, STEPS = 3, 32, 9


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


def gemma_steps(model, capacity=CAPACITY):
    """(weights, fn(weights, tokens [B, T], step, cache)): the caller makes positions and the mask
    from a step that it counts itself, as samplers do."""
    graph, weights = nnx.split(model)

    def fn(weights, tokens, step, cache):
        positions = jnp.broadcast_to(step + jnp.arange(tokens.shape[1]), tokens.shape)
        mask = jnp.arange(capacity) <= positions[..., None]
        return nnx.merge(graph, weights)(tokens, positions, cache, mask)

    return weights, fn
