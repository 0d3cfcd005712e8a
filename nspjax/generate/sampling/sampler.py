"""Choosing the next token of every row, inside jit, with each row's own settings.

No row's choice depends on another row: every reduction is over one row's vocabulary, and row r's
random numbers come from its own key and the number of the token: Threefry (Salmon et al., SC 2011)
as `jax.random` has it by default, but written out, so that no setting of JAX changes a draw. The
vocabulary is never sorted: the cut-off of top-k and top-p is found by bisection, which on CPU is
several times faster.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.extend.random import threefry2x32_p

from nspjax.generate.sampling_params import GREEDY_BELOW


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampling:
    """The settings of B rows, as `SamplingParams` says them; an idle row is greedy.

    temperature, top_p, min_p: float32 [B]; top_k: int32 [B], 0 for all;
    key: uint32 [B, 2], the two words of the row's threefry key.
    """

    temperature: Array
    top_k: Array
    top_p: Array
    min_p: Array
    key: Array


def sample(logits: Array, sampling: Sampling, token_index: Array) -> Array:
    """A token of each row: the most likely one, or one that is drawn.

    logits: float32 [B, V], one of a row finite and none above; token_index: int32 [B], how many
    tokens the row has generated before. Returns int32 [B].
    """
    greedy = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    random = sampling.temperature >= GREEDY_BELOW
    return lax.cond(
        random.any(),
        lambda: jnp.where(random, _draw(allowed_logits(logits, sampling), sampling, token_index),
                          greedy),
        lambda: greedy,
    )  # fmt: skip


def allowed_logits(logits: Array, sampling: Sampling) -> Array:
    """Logits below the largest one, over temperature; -inf where min-p, top-k or top-p leave a
    token out. [B, V].

    In vLLM's order: temperature, min-p, top-k, then top-p over what is left. Tokens that are
    exactly as likely as the last one kept are kept.
    """
    # the largest is 0 now, so a small temperature overflows to -inf, which is right, but not to inf
    below = logits - logits.max(-1, keepdims=True)
    scaled = below / jnp.maximum(sampling.temperature, jnp.float32(GREEDY_BELOW))[:, None]
    scaled = jnp.where(scaled >= jnp.log(sampling.min_p)[:, None], scaled, -jnp.inf)

    limited = sampling.top_k > 0
    scaled = lax.cond(
        limited.any(),
        lambda x: _keep_top(x, jnp.ones_like(x), sampling.top_k.astype(jnp.float32), limited),
        lambda x: x,
        scaled,
    )
    limited = sampling.top_p < 1.0
    return lax.cond(
        limited.any(),
        lambda x: _keep_top(x, jax.nn.softmax(x, axis=-1), sampling.top_p, limited),
        lambda x: x,
        scaled,
    )


def _draw(logits: Array, sampling: Sampling, token_index: Array) -> Array:
    """The Gumbel-max trick: the largest of logits and noise is drawn with softmax's probability."""
    noise = _gumbel(sampling.key, token_index, logits.shape[-1])
    return jnp.argmax(logits + noise, axis=-1).astype(jnp.int32)


def _gumbel(key: Array, token_index: Array, n: int) -> Array:
    """jax.random.gumbel(fold_in(key, token_index), [n]) of each row, float32 [B, n]."""
    index = token_index.astype(jnp.uint32)
    folded = _threefry(key, jnp.zeros_like(index)[:, None], index[:, None])  # two of [B, 1]
    count = jnp.broadcast_to(jnp.arange(n, dtype=jnp.uint32), (index.shape[0], n))
    high, low = _threefry(jnp.concatenate(folded, axis=1), jnp.zeros_like(count), count)
    # 23 bits as the mantissa of a float in [1, 2)
    one_to_two = ((high ^ low) >> jnp.uint32(9)) | jnp.uint32(0x3F800000)
    uniform = lax.bitcast_convert_type(one_to_two, jnp.float32) - jnp.float32(1)
    return -jnp.log(-jnp.log(jnp.maximum(uniform, jnp.finfo(jnp.float32).tiny)))


def _threefry(key: Array, high: Array, low: Array) -> tuple[Array, Array]:
    """Two words from the key's two, uint32 [B, 2], and a count's two, [B, n]."""
    words = [jnp.broadcast_to(key[:, i, None], high.shape) for i in range(2)]
    return threefry2x32_p.bind(*words, high, low)


def _keep_top(x: Array, weight: Array, need: Array, limited: Array) -> Array:
    """x with -inf outside the smallest set of largest values whose weight reaches `need` [B].

    Bisection over floats as integers of the same order: 32 halvings find the exact value. A row
    that is not `limited`, or whose weight never reaches `need`, stays as it is.
    """
    order = _ordered(x)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # values >= low weigh enough, values >= high do not
        middle = (low & high) + ((low ^ high) >> 1)  # the mean, without overflow
        enough = jnp.where(order >= middle[:, None], weight, 0.0).sum(-1) >= need
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low, _ = lax.fori_loop(0, 32, halve, (order.min(-1), order.max(-1) + 1))
    return jnp.where((order >= low[:, None]) | ~limited[:, None], x, -jnp.inf)


def _ordered(x: Array) -> Array:
    """float32 as int32 that compare the same way."""
    bits = lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ jnp.int32(0x7FFFFFFF), bits)
