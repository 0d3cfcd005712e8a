"""X in place of K and V for some rows, against the same model with its cache in memory."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from nspjax import Store, near_storage
from nspjax.models import load_decoder

GOLDENS = Path(__file__).parents[1] / "models" / "goldens"
ROWS, PROMPT_TOKENS, STEPS, CAPACITY = 4, 20, 9, 64
PREFILLED = np.array([[3, 0], [2, 1]], np.int32)
N_NEW = np.array([[PROMPT_TOKENS, 7], [15, 1]], np.int32)


def generator(checkpoint, dtype):
    """Ragged prefill of chosen rows, a second piece of two prompts, then greedy decode in a loop;
    the state to call it with."""
    decoder = load_decoder(GOLDENS / checkpoint, dtype=dtype)
    graph, state = nnx.split(decoder)

    def generate(state, tokens, caches, n_steps):
        model = nnx.merge(graph, state)
        first = jnp.zeros((ROWS, decoder.config.vocab_size))
        for rows, n_new in zip(PREFILLED, N_NEW, strict=True):
            hidden, caches = model(tokens[rows], caches, rows=rows, n_new=n_new)
            last = jnp.take_along_axis(hidden, (n_new - 1)[:, None, None], axis=1)
            first = first.at[rows].set(model.logits(last[:, 0]))
        more = jnp.array([2, 0, 3, 0], jnp.int32)  # all rows, some of them idle
        hidden, caches = model(tokens[:, :3], caches, n_new=more)
        last = jnp.take_along_axis(hidden, jnp.maximum(more - 1, 0)[:, None, None], axis=1)
        first = jnp.where(more[:, None] > 0, model.logits(last[:, 0]), first)

        def step(carry):
            i, logits, caches, chosen = carry
            chosen = chosen.at[:, i].set(logits[i].argmax(-1))
            hidden, caches = model(chosen[:, i, None], caches)
            return i + 1, logits.at[i + 1].set(model.logits(hidden[:, 0])), caches, chosen

        logits = jnp.zeros((STEPS + 1, *first.shape)).at[0].set(first)
        carry = (jnp.int32(0), logits, caches, jnp.zeros((ROWS, STEPS), jnp.int32))
        _, logits, caches, chosen = lax.while_loop(lambda c: c[0] < n_steps, step, carry)
        return logits, chosen, caches

    return decoder, generate, state


@functools.cache
def in_memory(checkpoint, dtype):
    decoder, generate, state = generator(checkpoint, dtype)
    tokens = jax.random.randint(jax.random.key(0), (ROWS, PROMPT_TOKENS), 3, 90)
    memory = decoder.init_caches(ROWS, CAPACITY)
    expected = jax.jit(generate)(state, tokens, memory, jnp.int32(STEPS))[:2]
    return generate, state, tokens, memory, expected


CASES = [
    ("llama", "float32", "fraction=0.5 chunk-tokens=7"),
    ("llama", "float32", "fraction=1.0"),
    ("llama", "bfloat16", "fraction=0.5"),
    ("opt", "float32", "fraction=0.5 chunk-tokens=16"),
    ("opt", "bfloat16", "fraction=1.0"),
    ("qwen3", "float32", "fraction=0.25"),
    ("qwen3", "bfloat16", "fraction=0.5 chunk-tokens=10"),
    ("mistral_window", "float32", "fraction=0.75 chunk-tokens=8"),
]
QUICK = {("memory", CASES[0]), ("memory", CASES[4]), ("file", CASES[7])}


@pytest.mark.parametrize(
    ("device", "checkpoint", "dtype", "options"),
    [
        pytest.param(device, *case, marks=[] if (device, case) in QUICK else pytest.mark.slow)
        for device in ("memory", "file")
        for case in CASES
    ],
)
def test_prefill_and_decode_loop(device, checkpoint, dtype, options, tmp_path):
    devices = "memory:" if device == "memory" else tmp_path
    check(devices, checkpoint, dtype, f"offload-kv,x-cache{{{options}}},lower-to-ffi")


@pytest.mark.parametrize("more", [pytest.param("", marks=pytest.mark.slow), "interleave,"])
def test_with_the_other_passes(more, tmp_path):
    pipeline = (
        f"offload-kv,x-cache{{fraction=0.5 chunk-tokens=8}},split-attention,{more}"
        "delay-writeback,prefetch,verify-schedule,lower-to-ffi"
    )
    check(tmp_path, "qwen3", "float32", pipeline)


def check(device, checkpoint, dtype, pipeline):
    """The same tokens, or logits, with the caches in a store."""
    generate, state, tokens, memory, (logits, chosen) = in_memory(checkpoint, dtype)
    _, _, n_kv_heads, head_dim = memory[0].k.shape
    with Store(device, host_memory="16MiB") as store:
        caches = store.kv_caches(
            len(memory),
            batch=ROWS,
            capacity_tokens=CAPACITY,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            dtype=memory[0].k.dtype,
            interval_tokens=4,  # so that there are full tiles
        )
        near = near_storage(generate, store=store, pipeline=pipeline)
        near_logits, near_chosen, caches = near(state, tokens, caches, jnp.int32(STEPS))
    scale = float(jnp.abs(logits).max())
    if dtype == "float32":
        np.testing.assert_array_equal(near_chosen, chosen)
        np.testing.assert_allclose(near_logits, logits, atol=1e-4 * scale)
    else:
        # 8 bits of mantissa; only the tokens' logits before another one may be chosen
        np.testing.assert_allclose(near_logits[:2], logits[:2], atol=4 * 2**-8 * scale)
