"""Decode of a whole model through near_storage: random weights, a synthetic prompt, real steps."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from shapes import kv_token_bytes

from nspjax import Store, near_storage
from nspjax.compiler import DEFAULT_PIPELINE
from nspjax.models import ModelConfig, random_decoder

PREFILL_TOKENS = 256


@dataclasses.dataclass(frozen=True)
class Steps:
    """Some decode steps of a batch, together."""

    n_steps: int
    batch: int
    seconds: float
    kv_bytes: int
    """bfloat16 bytes of the tokens attended, whatever they are stored as"""
    bytes_read: int
    """from the devices"""
    bytes_written: int
    """to the devices"""
    link_bytes: int
    """between the devices and the model"""
    attend_seconds: float
    """of the engine's attend calls"""

    @property
    def step_seconds(self) -> float:
        return self.seconds / self.n_steps

    @property
    def tokens_per_second(self) -> float:
        return self.batch / self.step_seconds

    @property
    def kv_gb_per_second(self) -> float:
        return self.kv_bytes / self.seconds / 1e9

    @property
    def read_gb_per_second(self) -> float:
        return self.bytes_read / self.seconds / 1e9


@dataclasses.dataclass(frozen=True)
class Weights:
    """bfloat16 weights, which several models of one shape may share."""

    config: ModelConfig
    graph: Any
    state: Any

    @property
    def n_bytes(self) -> int:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.state))


def random_weights(config: ModelConfig) -> Weights:
    return Weights(config, *nnx.split(random_decoder(config, seed=0, dtype=jnp.bfloat16)))


def make_decode(
    weights: Weights,
    store: Store,
    *,
    batch: int,
    context_tokens: int,
    most_steps: int,
    pipeline: str = DEFAULT_PIPELINE,
    synthetic: bool = True,
    **cache_options: Any,
) -> Callable[[int], Steps]:
    """A function that runs the next so many steps, each from the last one's most likely tokens.

    A step before them is not measured: so the first one begins with as much read ahead as the last
    one leaves. Each row begins with context_tokens synthetic tokens, and has room for twice
    most_steps more. Where rows keep X, no engine can make it up: synthetic=False prefills a random
    prompt.
    cache_options: further ones of Store.kv_caches.
    """
    config = weights.config
    caches = store.kv_caches(
        config.n_layers,
        batch=batch,
        capacity_tokens=context_tokens + 2 * most_steps,
        n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        dtype=jnp.bfloat16,
        **cache_options,
    )
    if synthetic:
        caches = [store.fill_synthetic(cache, context_tokens) for cache in caches]

    def step(state: Any, tokens: jax.Array, caches: Any) -> Any:
        model = nnx.merge(weights.graph, state)
        hidden, caches = model(tokens, caches)
        return jnp.argmax(model.logits(hidden[:, -1:]), -1).astype(jnp.int32), caches

    near = near_storage(step, store=store, pipeline=pipeline)
    tokens, length = jnp.zeros((batch, 1), jnp.int32), context_tokens
    for begin in () if synthetic else range(0, context_tokens, PREFILL_TOKENS):
        piece = (batch, min(PREFILL_TOKENS, context_tokens - begin))
        prompt = jax.random.randint(jax.random.key(begin), piece, 0, config.vocab_size)
        tokens, caches = near(weights.state, prompt, caches)
    store.flush()

    def run(n_steps: int) -> Steps:
        nonlocal tokens, caches, length
        tokens, caches = near(weights.state, tokens, caches)
        jax.block_until_ready(tokens)
        length += 1
        before, begin = store.stats(), time.perf_counter()
        for _ in range(n_steps):
            tokens, caches = near(weights.state, tokens, caches)
        seconds, after = time.perf_counter() - begin, store.stats()
        attended = batch * sum(range(length + 1, length + n_steps + 1))
        length += n_steps
        return Steps(
            n_steps,
            batch,
            seconds,
            attended * kv_token_bytes(config),
            after.bytes_read - before.bytes_read,
            after.bytes_written - before.bytes_written,
            after.link_bytes - before.link_bytes,
            (after.attend_ns - before.attend_ns) / 1e9,
        )

    return run
