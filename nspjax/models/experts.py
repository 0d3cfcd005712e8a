"""A mixture of experts, as in Mixtral (arXiv 2401.04088).

An answer must not depend on its neighbours, so nothing here depends on how many tokens choose an
expert: no capacity, no sorting, no grouping by expert. Every expert sees every token, one expert
after the other in a fixed order, and a token adds the result with weight 0 where it did not choose
that expert. Prefill computes n_experts / n_experts_per_token times what it needs; decode of a
batch reads all experts' weights anyway, which is what bounds it.
"""

from __future__ import annotations

import jax
from flax import nnx
from jax import Array, lax
from jax import numpy as jnp
from jax.typing import DTypeLike

from nspjax.models.config import Activation, ModelConfig
from nspjax.models.layers import activate, matmul


class Experts(nnx.Module):
    """router: [E, N]; gate_up: [N, E, 2 F], the gate first; down: [N, F, E]."""

    def __init__(self, config: ModelConfig, *, dtype: DTypeLike):
        n, e, f = config.n_experts, config.hidden_size, config.intermediate_size
        self.activation: Activation = config.activation
        self.n_experts_per_token = config.n_experts_per_token
        self.router = nnx.Param(jnp.zeros((e, n), dtype))
        self.gate_up = nnx.Param(jnp.zeros((n, e, 2 * f), dtype))
        self.down = nnx.Param(jnp.zeros((n, f, e), dtype))

    def __call__(self, x: Array) -> Array:
        """[B, T, E] -> [B, T, E]"""

        def add_expert(total: Array, expert: tuple[Array, Array, Array]) -> tuple[Array, None]:
            gate_up, down, weight = expert  # [E, 2 F], [F, E], [B, T]
            gate, up = jnp.split(matmul(x, gate_up), 2, axis=-1)
            out = matmul(activate(gate, self.activation) * up, down)
            # a weight of 0 adds nothing even where an unchosen expert overflowed
            part = jnp.where(weight[..., None] > 0, out.astype(jnp.float32) * weight[..., None], 0)
            return total + part, None

        experts = (self.gate_up[...], self.down[...], jnp.moveaxis(self._weights(x), -1, 0))
        total, _ = lax.scan(add_expert, jnp.zeros(x.shape, jnp.float32), experts)
        return total.astype(x.dtype)

    def _weights(self, x: Array) -> Array:
        """How much of each expert a token takes, 0 for those it does not, float32 [B, T, N]."""
        logits = jnp.dot(x, self.router[...], preferred_element_type=jnp.float32)
        probabilities = jax.nn.softmax(logits, axis=-1)
        top, chosen = lax.top_k(probabilities, self.n_experts_per_token)  # [B, T, n per token]
        top = top / top.sum(-1, keepdims=True)
        one_hot = jax.nn.one_hot(chosen, probabilities.shape[-1], dtype=jnp.float32)
        return (top[..., None] * one_hot).sum(-2)
