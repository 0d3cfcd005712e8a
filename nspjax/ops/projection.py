"""`project_kv`: the key and value projection, marked so that a pass knows X and how to redo it."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from nspjax.errors import InvalidArgumentError

PROJECT_KV = "nspjax.project_kv"
"""The composite's name. Operands: x, w_k, w_v and, with biases, b_k, b_v; results: k, v."""


def project_kv(
    x: Array, w_k: Array, w_v: Array, b_k: Array | None = None, b_v: Array | None = None
) -> tuple[Array, Array]:
    """Keys and values of the hidden states, before heads are split or rotated.

    x: [B, T, E]; w_k, w_v: [E, Hkv * D]; b_k, b_v: [Hkv * D], both or neither.
    Returns k, v: [B, T, Hkv * D] in x's dtype.

    Raises:
      InvalidArgumentError: one bias without the other.
    """
    if (b_k is None) != (b_v is None):
        raise InvalidArgumentError("project_kv got one bias: give b_k and b_v, or neither")
    mark = lax.composite(_project, name=PROJECT_KV, version=1)
    if b_k is None or b_v is None:
        return mark(x, w_k, w_v)
    return mark(x, w_k, w_v, b_k, b_v)


def _project(x: Array, w_k: Array, w_v: Array, *bias: Array) -> tuple[Array, Array]:
    # asking for float32 sums keeps XLA's CPU backend off its slow path for 16-bit products
    k, v = (jnp.dot(x, w, preferred_element_type=jnp.float32).astype(x.dtype) for w in (w_k, w_v))
    return (k + bias[0], v + bias[1]) if bias else (k, v)
