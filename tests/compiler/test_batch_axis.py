"""Parts of the batch against slices of the whole, over functions of many operations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from nspjax.compiler import mlir
from nspjax.compiler.batch.axis import joined, rows_of_batch
from nspjax.compiler.batch.rules import Part

BATCH, T, E = 6, 2, 8


def rms(x):
    return x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def heads(x):
    return x.reshape(BATCH, T, 2, E // 2)


def rotated(x, start):
    angles = (start[:, None] + jnp.arange(T))[..., None] * jnp.array([1.0, 0.1])
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    a, b = jnp.split(heads(x), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def scores(x):
    return jnp.einsum("bthd,bshd->bhts", x, x)


def mixed_rows(x):
    return x[::-1] + x.sum(0)


# each takes x [BATCH, T, E], start int32 [BATCH], w [E, E]; the batch is axis 0 of what it gives
BY_RULES = {
    "mlp": lambda x, start, w: jax.nn.silu(rms(x) @ w) * x,
    "rotated": lambda x, start, w: rotated(x @ w, start),
    "merged rows": lambda x, start, w: (x.reshape(BATCH * T, E) @ w).reshape(BATCH, T, E),
    "one axis": lambda x, start, w: (x.reshape(-1) * 2).reshape(BATCH, T * E),
    "attention": lambda x, start, w: jnp.einsum(
        "bhts,bshd->bthd",
        jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", heads(x), heads(x))),
        heads(x),
    ),
    "right operand": lambda x, start, w: jnp.einsum("ef,btf->ebt", w, x).transpose(1, 2, 0),
    "batch last": lambda x, start, w: (jnp.moveaxis(x, 0, -1) * start).transpose(2, 0, 1),
    "embedding": lambda x, start, w: w[start % E],
    "chosen by row": lambda x, start, w: jnp.take_along_axis(x, (start % T)[:, None, None], axis=1),
    "channels": lambda x, start, w: x[..., jnp.array([3, 1])],
    "one token": lambda x, start, w: lax.dynamic_index_in_dim(x, start[0] % T, 1),
    "sorted": lambda x, start, w: jnp.sort(x, axis=-1)[..., ::-1],
    "largest": lambda x, start, w: jnp.argmax(x @ w, axis=-1),
    "padded": lambda x, start, w: jnp.pad(x, ((0, 0), (1, 0), (0, 2)), constant_values=1.0),
    "updated": lambda x, start, w: lax.dynamic_update_slice(x, x[:, :1] + 1, (0, 1, 0)),
    "constants": lambda x, start, w: jnp.where(start[:, None, None] > 2, x, jnp.ones_like(x)),
    "some rows": lambda x, start, w: jnp.concatenate([x[4:] + 1, x[:3] * 2, x[3:4]]),
    "clamped": lambda x, start, w: jnp.clip(x, -0.5, 0.5).astype(jnp.bfloat16),
}
BY_SLICES = {
    "mixed": lambda x, start, w: mixed_rows(x) @ w,
    "scan": lambda x, start, w: lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=3)[
        0
    ],
    "numbered": lambda x, start, w: x * jnp.arange(BATCH, dtype=x.dtype)[:, None, None],
    "shifted": lambda x, start, w: jnp.cumsum(x, axis=0) + jnp.roll(x, 1, axis=0),
    "scattered": lambda x, start, w: x.at[start].add(1.0),
}


def operands():
    keys = jax.random.split(jax.random.key(0))
    x, w = jax.random.normal(keys[0], (BATCH, T, E)), jax.random.normal(keys[1], (E, E)) / 3
    return x, jnp.array([3, 0, 5, 1, 4, 2], jnp.int32), w


def in_parts(fn, bounds):
    """fn with its result made in parts and joined; and what was sliced for that."""
    exported = export.export(jax.jit(fn))(*operands())
    module = mlir.module_of(exported)
    before = mlir.signature(module)
    mlir.inline_calls(module, needed=lambda op: False)
    block = mlir.function(module, "main").regions[0].blocks[0]
    last = mlir.terminator(block)
    cloner, result, sliced = rows_of_batch(), last.operands[0], []
    slice_of = cloner.leaf

    def leaf(value, part):
        if not isinstance(value.owner, mlir.Block):
            sliced.append(value.owner.name)
        return slice_of(value, part)

    cloner.leaf = leaf
    parts = [cloner.clone(result, Part(0, *ends)) for ends in itertools.pairwise(bounds)]
    last.operands[0] = joined(parts, 0, last)
    mlir.erase_unused(block)
    mlir.remove_unused_functions(module)
    module.operation.verify()
    return mlir.with_module(exported, module, before), sliced


@pytest.mark.parametrize("bounds", [(0, 3, 6), (0, 1, 4, 6), (0, 6)])
@pytest.mark.parametrize("name", [*BY_RULES, *BY_SLICES])
def test_parts_are_slices_of_the_whole(name, bounds):
    fn = (BY_RULES | BY_SLICES)[name]
    exported, sliced = in_parts(fn, bounds)
    expected = jax.jit(fn)(*operands())
    out = jax.jit(exported.call)(*operands())
    assert out.dtype == expected.dtype
    np.testing.assert_allclose(
        out.astype(jnp.float32), expected.astype(jnp.float32), rtol=1e-5, atol=1e-6
    )
    if name in BY_RULES or len(bounds) == 2:
        assert not sliced, "a value was made whole and sliced"
    else:
        assert sliced


@pytest.mark.parametrize("seed", range(20))
def test_random_compositions(seed):
    """Functions of the batch one after the other, each one's rows fed to the next."""
    rng = np.random.default_rng(seed)
    chosen = [
        list((BY_RULES | BY_SLICES).values())[i]
        for i in rng.integers(0, len(BY_RULES) + len(BY_SLICES), 4)
    ]

    def fn(x, start, w):
        for one in chosen:
            out = one(x, start, w).astype(jnp.float32).reshape(BATCH, -1)
            x = x + jnp.tanh(_fit(out))
        return x

    cuts = np.sort(rng.choice(np.arange(1, BATCH), 2, replace=False)).tolist()
    exported, _ = in_parts(fn, (0, *cuts, BATCH))
    np.testing.assert_allclose(
        jax.jit(exported.call)(*operands()), jax.jit(fn)(*operands()), rtol=1e-4, atol=1e-5
    )


def _fit(out):
    n = T * E
    out = jnp.tile(out, (1, -(-n // out.shape[1])))[:, :n]
    return out.reshape(BATCH, T, E)
