"""How well a model predicts held-out text while its KV cache lies in a store."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nspjax import Store, near_storage
from nspjax.models import Decoder

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from library import read_library

PAD = -1


def held_out_windows(context_tokens: int) -> list[bytes]:
    """The held-out files in windows of context_tokens, less the BOS that will stand before each."""
    width = context_tokens - 1
    _, files = read_library()
    return [text[i : i + width] for text in files for i in range(0, len(text), width)]


def stored_bits_per_byte(
    model: Decoder,
    store: Store,
    windows: list[bytes],
    chunk_tokens: int,
    **cache_options: Any,
) -> float:
    """Bits per byte with teacher forcing, chunk after chunk, each window a row of one batch.

    A chunk's attention reads all before it from the store, as it is stored there; within the chunk
    the model's own K and V are used, as in prefill. cache_options: of Store.kv_caches.
    """
    tokens, targets = _teacher_forcing(windows, chunk_tokens, model.config.bos_token_id or 0)
    config, batch = model.config, len(windows)
    caches = store.kv_caches(
        config.n_layers,
        batch=batch,
        capacity_tokens=tokens.shape[1],
        n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        **cache_options,
    )
    graph, state = nnx.split(model)

    def step(state: Any, tokens: jax.Array, targets: jax.Array, caches: Any) -> Any:
        hidden, caches = nnx.merge(graph, state)(tokens, caches)
        log_p = jax.nn.log_softmax(nnx.merge(graph, state).logits(hidden))
        nats = -jnp.take_along_axis(log_p, jnp.maximum(targets, 0)[..., None], -1)[..., 0]
        return jnp.where(targets == PAD, 0, nats).sum(), caches

    near, nats = near_storage(step, store=store), 0.0
    for begin in range(0, tokens.shape[1], chunk_tokens):
        chunk = slice(begin, begin + chunk_tokens)
        loss, caches = near(state, tokens[:, chunk], targets[:, chunk], caches)
        nats += float(loss)
    return nats / math.log(2) / sum(map(len, windows))


def _teacher_forcing(
    windows: list[bytes], chunk_tokens: int, bos: int
) -> tuple[jax.Array, jax.Array]:
    """tokens and targets, int32 [B, T]: BOS and the text but its last byte; the text. T is a
    multiple of chunk_tokens; where a text has ended, the target is PAD."""
    longest = max(map(len, windows))
    n_tokens = -(-longest // chunk_tokens) * chunk_tokens
    tokens = np.zeros((len(windows), n_tokens), np.int32)
    targets = np.full((len(windows), n_tokens), PAD, np.int32)
    for row, text in enumerate(windows):
        n = len(text)
        tokens[row, 0] = bos
        tokens[row, 1:n] = np.frombuffer(text[:-1], np.uint8)
        targets[row, :n] = np.frombuffer(text, np.uint8)
    return jnp.asarray(tokens), jnp.asarray(targets)
