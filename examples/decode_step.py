"""A decode step to run passes on: that of the example model, of shapes alone.

nspjax opt examples/decode_step.py:tiny_llama -p ans --table
"""

from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from nspjax.models import Decoder, load_config


def tiny_llama(batch=8, capacity_tokens=4096):
    """The function and its arguments: weights, tokens [B, 1], one KVCache a layer."""
    config = load_config(Path(__file__).parent / "tiny-python-llama")
    model = nnx.eval_shape(lambda: Decoder(config, dtype=jnp.bfloat16))
    graph, weights = nnx.split(model)
    caches = jax.eval_shape(lambda: model.init_caches(batch, capacity_tokens, jnp.bfloat16))

    def step(weights, tokens, caches):
        model = nnx.merge(graph, weights)
        hidden, caches = model(tokens, caches)
        return jnp.argmax(model.logits(hidden), -1).astype(jnp.int32), caches

    return step, (weights, jax.ShapeDtypeStruct((batch, 1), jnp.int32), caches)
