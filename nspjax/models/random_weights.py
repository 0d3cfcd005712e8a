"""Decoders with random weights, for benchmarks and tests that need no checkpoint."""

from __future__ import annotations

import zlib
from typing import Any

import jax
from flax import nnx
from jax import numpy as jnp
from jax.typing import DTypeLike

from nspjax.models.config import ModelConfig
from nspjax.models.decoder import Decoder
from nspjax.models.load import weight_name


def random_decoder(
    config: ModelConfig, *, seed: int = 0, dtype: DTypeLike = jnp.bfloat16
) -> Decoder:
    """A decoder whose matrices are normal with variance 1 / inputs, so that activations keep their
    size; norms are ones, biases zeros, embeddings normal with variance 1.

    A weight depends on the seed and its name only.
    """
    key = jax.random.key(seed)
    graph, abstract = nnx.split(nnx.eval_shape(lambda: Decoder(config, dtype=dtype)))

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = weight_name(path)
        kind = name.rsplit(".", 1)[-1]
        if kind == "scale":
            return jnp.ones(leaf.shape, leaf.dtype)
        if kind in ("bias", "b"):
            return jnp.zeros(leaf.shape, leaf.dtype)
        if kind in ("embedding", "positions"):
            std = 1.0
        else:
            n_inputs = leaf.shape[-1] if kind == "head" else leaf.shape[-2]
            std = n_inputs**-0.5
        # crc32: a hash of the name that is the same in every process
        name_key = jax.random.fold_in(key, zlib.crc32(name.encode()))
        return _normal(name_key, leaf.shape, leaf.dtype, std)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(draw, abstract))


def _normal(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike, std: float) -> jax.Array:
    return jax.random.normal(key, shape, dtype) * jnp.asarray(std, dtype)
