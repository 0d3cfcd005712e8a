"""Three decoders that know nothing of nspjax, each in the style of a library that people use.

`NnxDecoder` and `LinenDecoder` are layers around the library's own attention with `decode=True`
(flax.nnx.MultiHeadAttention, flax.linen.MultiHeadDotProductAttention). `GemmaDecoder` follows the
conventions of Flax's gemma example: a dict of k, v and end_index a layer, einsum, grouped queries,
soft-capped logits, sliding windows, and a mask that the caller makes from positions.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

VOCAB, FEATURES, HEADS, LAYERS = 37, 32, 4, 2


class NnxDecoder(nnx.Module):
    def __init__(self, *, kv_heads, rngs, **options):
        self.embed = nnx.Embed(VOCAB, FEATURES, rngs=rngs)
        self.attention = nnx.List(
            nnx.MultiHeadAttention(
                HEADS, FEATURES, num_kv_heads=kv_heads, decode=True, rngs=rngs, **options
            )
            for _ in range(LAYERS)
        )
        self.norms = nnx.List(nnx.RMSNorm(FEATURES, rngs=rngs) for _ in range(LAYERS))

    def init_cache(self, batch, capacity):
        for layer in self.attention:
            layer.init_cache((batch, capacity, FEATURES))

    def __call__(self, tokens):
        x = self.embed(tokens)
        for norm, layer in zip(self.norms, self.attention, strict=True):
            x = x + layer(norm(x))
        return self.embed.attend(x)


class LinenDecoder(nn.Module):
    decode: bool = True
    dropout_rate: float = 0.0

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(VOCAB, FEATURES)
        x = embed(tokens)
        for _ in range(LAYERS):
            attention = nn.MultiHeadDotProductAttention(
                num_heads=HEADS,
                use_bias=False,
                broadcast_dropout=False,
                dropout_rate=self.dropout_rate,
                deterministic=not self.dropout_rate,
                decode=self.decode,
            )
            x = x + attention(nn.LayerNorm()(x))
            x = x + nn.Dense(FEATURES)(nn.relu(nn.Dense(2 * FEATURES)(nn.LayerNorm()(x))))
        return embed.attend(x)


K_MASK = -2.3819763e38


class GemmaAttention(nnx.Module):
    def __init__(self, *, kv_heads, head_dim, softcap, window, rngs):
        init = nnx.initializers.normal(0.2)
        self.q = nnx.Param(init(rngs.params(), (HEADS, FEATURES, head_dim)))
        self.kv = nnx.Param(init(rngs.params(), (2, kv_heads, FEATURES, head_dim)))
        self.out = nnx.Param(init(rngs.params(), (HEADS, head_dim, FEATURES)))
        self.softcap, self.window = softcap, window

    def __call__(self, x, positions, cache, mask):
        x = x.astype(self.q.dtype)
        query = jnp.einsum("BTD,NDH->BTNH", x, self.q[...])
        key, value = jnp.einsum("BSD,CKDH->CBSKH", x, self.kv[...])
        query, key = rope(query, positions), rope(key, positions)
        query = query * query.shape[-1] ** -0.5
        end = cache["end_index"][0]
        at = (0, end % cache["v"].shape[1], 0, 0)
        value = jax.lax.dynamic_update_slice(cache["v"], value, at)
        key = jax.lax.dynamic_update_slice(cache["k"], key, at)
        b, t, n, h = query.shape
        if n == key.shape[2]:
            logits = jnp.einsum("BTNH,BSNH->BTNS", query, key)
        else:
            grouped = query.reshape(b, t, key.shape[2], -1, h)
            logits = jnp.einsum("BTKGH,BSKH->BTKGS", grouped, key).reshape(b, t, n, -1)
        if self.softcap is not None:
            logits = jnp.tanh(logits / self.softcap) * self.softcap
        if self.window is not None:
            slots = jnp.arange(key.shape[1])
            mask = mask * (slots > positions[..., None] - self.window)
        logits = jnp.where(jnp.expand_dims(mask, -2), logits, K_MASK)
        weights = jax.nn.softmax(logits, axis=-1).astype(key.dtype)
        if n == key.shape[2]:
            encoded = jnp.einsum("BTNS,BSNH->BTNH", weights, value)
        else:
            weights = weights.reshape(b, t, key.shape[2], -1, weights.shape[-1])
            encoded = jnp.einsum("BTKGS,BSKH->BTKGH", weights, value).reshape(b, t, n, h)
        after = {"v": value, "k": key, "end_index": cache["end_index"] + t}
        return after, jnp.einsum("BTNH,NHD->BTD", encoded, self.out[...])


class GemmaDecoder(nnx.Module):
    def __init__(self, *, kv_heads, softcap=None, window=None, rngs):
        self.embed = nnx.Embed(VOCAB, FEATURES, rngs=rngs)
        make = functools.partial(
            GemmaAttention, kv_heads=kv_heads, head_dim=8, softcap=softcap, rngs=rngs
        )
        # local and global layers take turns
        self.attention = nnx.List(make(window=None if n % 2 else window) for n in range(LAYERS))
        self.norms = nnx.List(nnx.RMSNorm(FEATURES, rngs=rngs) for _ in range(LAYERS))

    def init_cache(self, batch, capacity, dtype=jnp.float32):
        def layer(attention):
            shape = (batch, capacity, attention.kv.shape[1], 8)
            zeros = {name: jnp.zeros(shape, dtype) for name in ("k", "v")}
            return {**zeros, "end_index": jnp.zeros((batch,), jnp.int32)}

        return {f"layer_{n}": layer(a) for n, a in enumerate(self.attention)}

    def __call__(self, tokens, positions, cache, mask):
        x, after = self.embed(tokens), {}
        for n, (norm, layer) in enumerate(zip(self.norms, self.attention, strict=True)):
            after[f"layer_{n}"], out = layer(norm(x), positions, cache[f"layer_{n}"], mask)
            x = x + out
        return self.embed.attend(x), after


def rope(x, positions):
    """x: [B, T, N, H]; positions: int32 [B, T]."""
    fraction = jnp.arange(x.shape[-1] // 2) / (x.shape[-1] // 2)
    angle = positions[..., None, None] / 10_000**fraction
    first, second = jnp.split(x, 2, axis=-1)
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
