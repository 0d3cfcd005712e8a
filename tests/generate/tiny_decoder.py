"""Decoders small enough to compile in a second, with the interface of nspjax.models.Decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nspjax.ops import KVCache, cached_attention


@dataclasses.dataclass(frozen=True)
class TinyConfig:
    vocab_size: int = 48
    n_layers: int = 2
    n_kv_heads: int = 2
    head_dim: int = 8
    max_position_tokens: int = 128
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    window_tokens: int | None = None

    def layer_window_tokens(self, _layer: int) -> int | None:
        return self.window_tokens


class TinyDecoder(nnx.Module):
    """Two layers of attention and a nonlinearity, with learned positions."""

    def __init__(self, config: TinyConfig | None = None, *, seed: int = 0, dtype=jnp.float32):
        self.config = config = config or TinyConfig()
        self.dtype = dtype
        width = 2 * config.n_kv_heads * config.head_dim
        draw = np.random.default_rng(seed)

        def weight(*shape: int) -> nnx.Param:
            return nnx.Param(jnp.asarray(draw.normal(size=shape) * shape[0] ** -0.5, dtype))

        self.embedding = nnx.Param(jnp.asarray(draw.normal(size=(config.vocab_size, width)), dtype))
        self.positions = nnx.Param(
            jnp.asarray(draw.normal(size=(config.max_position_tokens, width)), dtype)
        )
        self.head = weight(width, config.vocab_size)
        kv = config.n_kv_heads * config.head_dim
        self.layers = nnx.List(
            nnx.Dict(
                q=weight(width, width), k=weight(width, kv), v=weight(width, kv),
                o=weight(width, width),
            )
            for _ in range(config.n_layers)
        )  # fmt: skip

    def __call__(self, tokens, caches, *, rows=None, n_new=None):
        b, t = tokens.shape
        heads, dim = self.config.n_kv_heads, self.config.head_dim
        start = caches[0].lengths if rows is None else caches[0].lengths[rows]
        at = jnp.minimum(start[:, None] + jnp.arange(t), self.config.max_position_tokens - 1)
        x = self.embedding[...][tokens] + self.positions[...][at]
        after = []
        for layer, cache in zip(self.layers, caches, strict=True):
            out, cache = cached_attention(
                (x @ layer["q"][...]).reshape(b, t, 2 * heads, dim),
                (x @ layer["k"][...]).reshape(b, t, heads, dim).astype(cache.k.dtype),
                (x @ layer["v"][...]).reshape(b, t, heads, dim).astype(cache.k.dtype),
                cache,
                rows=rows,
                n_new=n_new,
                window=self.config.window_tokens,
            )
            x = x + jnp.tanh(out.reshape(b, t, -1) @ layer["o"][...])
            after.append(cache)
        return x, after

    def logits(self, hidden):
        return (hidden @ self.head[...]).astype(jnp.float32)

    def init_caches(self, batch, capacity_tokens, dtype=None):
        c = self.config
        return [
            KVCache.zeros(batch, capacity_tokens, c.n_kv_heads, c.head_dim, dtype or self.dtype)
            for _ in range(c.n_layers)
        ]


class ScriptedDecoder(nnx.Module):
    """Always goes on with follower[last token], so that a test can say what is generated."""

    def __init__(self, follower: Sequence[int], config: TinyConfig | None = None):
        self.config = config or TinyConfig(vocab_size=len(follower), n_layers=1)
        self.follower = nnx.Param(jnp.array(follower, jnp.int32))

    def __call__(self, tokens, caches, *, rows=None, n_new=None):
        b, t = tokens.shape
        nothing = jnp.zeros((b, t, self.config.n_kv_heads, self.config.head_dim))
        _, cache = cached_attention(nothing, nothing, nothing, caches[0], rows=rows, n_new=n_new)
        return jax.nn.one_hot(self.follower[...][tokens], self.config.vocab_size), [cache]

    def logits(self, hidden):
        return 50.0 * hidden

    def init_caches(self, batch, capacity_tokens, dtype=None):
        c = self.config
        return [KVCache.zeros(batch, capacity_tokens, c.n_kv_heads, c.head_dim, jnp.float32)]


def scripted(text: str, first: int, **config) -> ScriptedDecoder:
    """A decoder over bytes that answers a prompt ending in token `first` with `text`, again and
    again; no byte may occur twice. Tokens 256 and up follow nothing but themselves."""
    chain = [first, *text.encode()]
    follower = list(range(258))
    for token, after in zip(chain, [*chain[1:], chain[1]], strict=True):
        follower[token] = after
    return ScriptedDecoder(follower, TinyConfig(vocab_size=258, n_layers=1, **config))


def greedy_by_hand(model, prompts: Sequence[Sequence[int]], n_tokens: int) -> list[list[int]]:
    """One prompt, one token at a time, over a cache of one row: the plainest loop there is."""
    graph, weights = nnx.split(model)

    @jax.jit
    def step(weights, caches, token):
        decoder = nnx.merge(graph, weights)
        hidden, caches = decoder(token[None, None], caches)
        return decoder.logits(hidden[:, 0])[0].argmax(), caches

    answers = []
    for prompt in prompts:
        tokens = list(prompt)
        caches = model.init_caches(1, model.config.max_position_tokens)
        for i in range(len(prompt) + n_tokens - 1):
            chosen, caches = step(weights, caches, jnp.int32(tokens[i]))
            if i >= len(prompt) - 1:
                tokens.append(int(chosen))
        answers.append(tokens[len(prompt) :])
    return answers
