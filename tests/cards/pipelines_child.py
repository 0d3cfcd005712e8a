"""Run on emulated cards: a model with its cache on two of them, under every preset.

    python pipelines_child.py

Prints one line of JSON for each pipeline: how far its logits are from those of the same model with
its cache in memory, whether its greedy tokens are the same, and what its store counted.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nspjax import Store, near_storage
from nspjax.compiler.presets import PRESETS
from nspjax.models import load_decoder

CHECKPOINT = Path(__file__).parents[1] / "models/goldens/qwen3"
ROWS, PROMPT_TOKENS, STEPS, CAPACITY, TILE_TOKENS = 4, 40, 6, 64, 16
N_NEW = [PROMPT_TOKENS, 7, 23, 16]
HALF_X = "offload-kv,x-cache{fraction=0.5},split-attention,delay-writeback,prefetch,lower-to-ffi"


def in_memory(step, state, caches, tokens):
    """(tokens, n_new, logits) of a prefill and some steps."""
    n_new = jnp.array(N_NEW, jnp.int32)
    calls = []
    for _ in range(1 + STEPS):
        logits, caches = step(state, tokens, caches, n_new)
        calls.append((tokens, n_new, np.asarray(logits)))
        tokens = jnp.asarray(logits.argmax(-1), jnp.int32)[:, None]
        n_new = jnp.ones((ROWS,), jnp.int32)
    return calls


def on_cards(step, state, calls, pipeline, n_layers, shape):
    with Store("xrt:0,1", host_memory="16MiB", pinned=0) as store:
        near = near_storage(step, store=store, pipeline=pipeline)
        caches = store.kv_caches(
            n_layers,
            batch=ROWS,
            capacity_tokens=CAPACITY,
            n_kv_heads=shape[2],
            head_dim=shape[3],
            dtype=jnp.float32,
            interval_tokens=TILE_TOKENS,
        )
        error, same = 0.0, True
        for tokens, n_new, expected in calls:
            logits, caches = near(state, tokens, caches, n_new)
            error = max(error, float(np.abs(logits - expected).max() / np.abs(expected).max()))
            same = same and bool((logits.argmax(-1) == expected.argmax(-1)).all())
        return {"error": error, "same_tokens": same, "bytes_read": store.stats().bytes_read}


def main():
    decoder = load_decoder(CHECKPOINT, dtype="float32")
    graph, state = nnx.split(decoder)

    def step(state, tokens, caches, n_new):
        model = nnx.merge(graph, state)
        hidden, caches = model(tokens, caches, n_new=n_new)
        last = jnp.take_along_axis(hidden, (n_new - 1)[:, None, None], axis=1)
        return model.logits(last[:, 0]), caches

    tokens = jax.random.randint(jax.random.key(0), (ROWS, PROMPT_TOKENS), 3, 90)
    empty = decoder.init_caches(ROWS, CAPACITY)
    calls = in_memory(jax.jit(step), state, empty, tokens)
    for name, pipeline in {**PRESETS, "half of the rows X": HALF_X}.items():
        found = on_cards(step, state, calls, pipeline, len(empty), empty[0].k.shape)
        print(json.dumps({"pipeline": name, **found}), flush=True)


if __name__ == "__main__":
    main()
