"""The pieces of a decoder layer: linear map, norm, and the dense MLP."""

from __future__ import annotations

import functools

import jax
from flax import nnx
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike

from nspjax.models.config import Activation, ModelConfig

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
}


def matmul(x: Array, w: Array) -> Array:
    """x @ w summed in float32, in x's dtype. [..., in], [in, out] -> [..., out]

    Asking for float32 sums costs nothing on an accelerator, and on CPUs XLA has a fast product for
    bfloat16 only then (jax 0.10, AVX512-BF16: 8 times as fast as x @ w).
    """
    return jnp.dot(x, w, preferred_element_type=jnp.float32).astype(x.dtype)


def activate(x: Array, activation: Activation) -> Array:
    """The activation, computed in float32, in x's dtype."""
    return ACTIVATIONS[activation](x.astype(jnp.float32)).astype(x.dtype)


class Linear(nnx.Module):
    """x @ w + b. w: [in, out]; b: [out] or None."""

    def __init__(self, n_in: int, n_out: int, *, bias: bool, dtype: DTypeLike):
        self.w = nnx.Param(jnp.zeros((n_in, n_out), dtype))
        self.b = nnx.Param(jnp.zeros((n_out,), dtype)) if bias else None

    def __call__(self, x: Array) -> Array:
        """[..., in] -> [..., out]"""
        out = matmul(x, self.w[...])
        return out if self.b is None else out + self.b[...]


class Norm(nnx.Module):
    """RMSNorm (arXiv 1910.07467) or LayerNorm over the last axis, computed in float32."""

    def __init__(self, size: int, config: ModelConfig, *, dtype: DTypeLike):
        self.kind = config.norm
        self.eps = config.norm_eps
        with_bias = config.norm_weights and config.norm == "layer"
        self.scale = nnx.Param(jnp.ones((size,), dtype)) if config.norm_weights else None
        self.bias = nnx.Param(jnp.zeros((size,), dtype)) if with_bias else None

    def __call__(self, x: Array) -> Array:
        """[..., size] -> [..., size] in x's dtype"""
        y = x.astype(jnp.float32)
        if self.kind == "layer":
            y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + self.eps)
        if self.scale is not None:
            y = y * self.scale[...].astype(jnp.float32)
        if self.bias is not None:
            y = y + self.bias[...].astype(jnp.float32)
        return y.astype(x.dtype)


class Mlp(nnx.Module):
    """down(act(gate(x)) * up(x)), or down(act(up(x))) where there is no gate."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike):
        e, f, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.activation: Activation = config.activation
        self.gate = Linear(e, f, bias=bias, dtype=dtype) if config.gated_mlp else None
        self.up = Linear(e, f, bias=bias, dtype=dtype)
        self.down = Linear(f, e, bias=bias, dtype=dtype)

    def __call__(self, x: Array) -> Array:
        """[B, T, E] -> [B, T, E]"""
        if self.gate is None:
            return self.down(activate(self.up(x), self.activation))
        return self.down(activate(self.gate(x), self.activation) * self.up(x))
