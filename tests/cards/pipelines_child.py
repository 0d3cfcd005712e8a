"""Run on emulated cards: a model with its cache on two of them, under every preset.

    python pipelines_child.py

Prints one line of JSON for each pipeline: how far its logits are from those of the same model with
its cache in memory, whether its greedy tokens are the same, and what its store counted.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))
from greedy_steps import greedy_calls, last_logits

from nspjax import Store, near_storage
from nspjax.compiler.driver.presets import PRESETS
from nspjax.models import load_decoder

CHECKPOINT = Path(__file__).parents[1] / "models/goldens/qwen3"
ROWS, PROMPT_TOKENS, STEPS, CAPACITY, TILE_TOKENS = 4, 40, 6, 64, 16
N_NEW = [PROMPT_TOKENS, 7, 23, 16]
HALF_X = "offload-kv,x-cache{fraction=0.5},split-attention,delay-writeback,prefetch,lower-to-ffi"


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
    step = last_logits(graph)
    tokens = jax.random.randint(jax.random.key(0), (ROWS, PROMPT_TOKENS), 3, 90)
    empty = decoder.init_caches(ROWS, CAPACITY)
    calls = greedy_calls(jax.jit(step), state, empty, tokens, N_NEW, STEPS)
    for name, pipeline in {**PRESETS, "half of the rows X": HALF_X}.items():
        found = on_cards(step, state, calls, pipeline, len(empty), empty[0].k.shape)
        print(json.dumps({"pipeline": name, **found}), flush=True)


if __name__ == "__main__":
    main()
