"""`Decoder`: one decoder for all families; `ModelConfig` says which parts it has.

It keeps its cache in memory and runs on any JAX backend. Storage is the compiler's business: all
that the decoder does for it is to use `nspjax.ops`.
"""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike

from nspjax.errors import InvalidArgumentError
from nspjax.models.config import ModelConfig
from nspjax.models.experts import Experts
from nspjax.models.layers import Linear, Mlp, Norm
from nspjax.models.rope import rotate, rotation
from nspjax.ops import KVCache, cached_attention, project_kv

Rotation = tuple[Array, Array]


class Attention(nnx.Module):
    """Causal self-attention of one layer over its KV cache."""

    def __init__(self, config: ModelConfig, layer: int, *, dtype: DTypeLike):
        e, d = config.hidden_size, config.head_dim
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.window_tokens = config.layer_window_tokens(layer)
        bias = config.qkv_bias
        self.q = Linear(e, config.n_heads * d, bias=bias, dtype=dtype)
        self.k = Linear(e, config.n_kv_heads * d, bias=bias, dtype=dtype)
        self.v = Linear(e, config.n_kv_heads * d, bias=bias, dtype=dtype)
        self.out = Linear(config.n_heads * d, e, bias=config.attention_out_bias, dtype=dtype)
        self.q_norm = Norm(d, config, dtype=dtype) if config.qk_norm else None
        self.k_norm = Norm(d, config, dtype=dtype) if config.qk_norm else None

    def __call__(
        self,
        x: Array,
        cache: KVCache,
        rotary: Rotation | None,
        *,
        rows: Array | None,
        n_new: Array | None,
    ) -> tuple[Array, KVCache]:
        """x: [B, T, E] -> [B, T, E] and the longer cache."""
        b, t, _ = x.shape
        q = self.q(x).reshape(b, t, self.n_heads, -1)
        k, v = project_kv(
            x,
            self.k.w[...],
            self.v.w[...],
            None if self.k.b is None else self.k.b[...],
            None if self.v.b is None else self.v.b[...],
        )
        k = k.reshape(b, t, self.n_kv_heads, -1)
        v = v.reshape(b, t, self.n_kv_heads, -1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        out, cache = cached_attention(
            q,
            k.astype(cache.k.dtype),
            v.astype(cache.v.dtype),
            cache,
            rows=rows,
            n_new=n_new,
            window=self.window_tokens,
        )
        return self.out(out.reshape(b, t, -1)), cache


class DecoderLayer(nnx.Module):
    """Attention and MLP, each added to what it reads."""

    def __init__(self, config: ModelConfig, layer: int, *, dtype: DTypeLike):
        self.norm_after = config.norm_after
        self.attention_norm = Norm(config.hidden_size, config, dtype=dtype)
        self.attention = Attention(config, layer, dtype=dtype)
        self.mlp_norm = Norm(config.hidden_size, config, dtype=dtype)
        self.mlp = (Experts if config.n_experts else Mlp)(config, dtype=dtype)

    def __call__(
        self,
        x: Array,
        cache: KVCache,
        rotary: Rotation | None,
        *,
        rows: Array | None,
        n_new: Array | None,
    ) -> tuple[Array, KVCache]:
        """x: [B, T, E] -> [B, T, E] and the longer cache."""
        if self.norm_after:
            out, cache = self.attention(x, cache, rotary, rows=rows, n_new=n_new)
            x = self.attention_norm(x + out)
            return self.mlp_norm(x + self.mlp(x)), cache
        out, cache = self.attention(self.attention_norm(x), cache, rotary, rows=rows, n_new=n_new)
        x = x + out
        return x + self.mlp(self.mlp_norm(x)), cache


class Decoder(nnx.Module):
    """A decoder-only language model whose new weights are zeros and ones.

    `load_decoder` makes one from a checkpoint, `random_decoder` one with random weights. Weights
    and activations have `dtype`; norms, rotation, softmax, router and logits are float32.
    """

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike = jnp.bfloat16):
        self.config = config
        e = config.hidden_size
        width = config.embedding_size or e
        self.embedding = nnx.Param(jnp.zeros((config.vocab_size, width), dtype))
        projected = width != e
        self.project_in = Linear(width, e, bias=False, dtype=dtype) if projected else None
        n_positions = config.max_position_tokens + config.position_offset
        learned = config.positions == "learned"
        self.positions = nnx.Param(jnp.zeros((n_positions, e), dtype)) if learned else None
        self.layers = nnx.List(
            [DecoderLayer(config, layer, dtype=dtype) for layer in range(config.n_layers)]
        )
        self.final_norm = None if config.norm_after else Norm(e, config, dtype=dtype)
        self.project_out = Linear(e, width, bias=False, dtype=dtype) if projected else None
        tied = config.tied_embeddings
        self.head = None if tied else nnx.Param(jnp.zeros((config.vocab_size, width), dtype))

    @property
    def dtype(self) -> jnp.dtype:
        """Of weights and activations."""
        return self.embedding.dtype

    def __call__(
        self,
        tokens: Array,
        caches: Sequence[KVCache],
        *,
        rows: Array | None = None,
        n_new: Array | None = None,
    ) -> tuple[Array, list[KVCache]]:
        """Append tokens to their rows of the caches.

        Args:
          tokens: int32 [B, T]; row b's go to the positions after what its cache row holds.
          caches: one a layer, of `init_caches`. On storage, go on with those that are returned.
          rows: int32 [B], the distinct cache rows of the batch rows. None: all of them.
          n_new: int32 [B], how many of the T tokens of each row count. None: all.

        Returns:
          hidden [B, T, E], before the final norm, for `logits`; it means nothing where tokens are
          padding. And the longer caches.

        Raises:
          InvalidArgumentError: not one cache a layer, or shapes that do not fit.
        """
        if len(caches) != self.config.n_layers:
            raise InvalidArgumentError(
                f"{len(caches)} caches for {self.config.n_layers} layers: give one a layer"
            )
        start = caches[0].lengths if rows is None else caches[0].lengths[rows]
        positions = start[:, None] + jnp.arange(tokens.shape[1], dtype=jnp.int32)  # [B, T]
        # padding may hold any token and lie past the last position: clip, so that it stays finite
        x = self.embedding[...].at[tokens].get(mode="clip")
        if self.project_in is not None:
            x = self.project_in(x)
        if self.positions is not None:
            at = positions + self.config.position_offset
            x = x + self.positions[...].at[at].get(mode="clip")
        rotary = rotation(positions, self.config) if self.config.positions == "rotary" else None
        longer = []
        for layer, cache in zip(self.layers, caches, strict=True):
            x, cache = layer(x, cache, rotary, rows=rows, n_new=n_new)
            longer.append(cache)
        return x, longer

    def logits(self, hidden: Array) -> Array:
        """The final norm and the vocabulary's scores. hidden: [..., E] -> float32 [..., V]."""
        if self.final_norm is not None:
            hidden = self.final_norm(hidden)
        if self.project_out is not None:
            hidden = self.project_out(hidden)
        head = self.embedding if self.head is None else self.head  # [V, E]
        return jnp.einsum("...e,ve->...v", hidden, head[...], preferred_element_type=jnp.float32)

    def init_caches(
        self, batch: int, capacity_tokens: int, dtype: DTypeLike | None = None
    ) -> list[KVCache]:
        """Empty caches in memory, one a layer. dtype: None for the weights'."""
        config = self.config
        return [
            KVCache.zeros(
                batch, capacity_tokens, config.n_kv_heads, config.head_dim, dtype or self.dtype
            )
            for _ in range(config.n_layers)
        ]
