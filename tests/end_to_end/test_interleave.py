"""The batch in groups that take turns, against the same model with its cache in memory."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from nspjax import Store, near_storage
from nspjax.models import load_decoder
from nspjax.runtime.trace import TraceKind

GOLDENS = Path(__file__).parents[1] / "models" / "goldens"
ROWS, PROMPT_TOKENS, STEPS, CAPACITY = 5, 20, 9, 64


def check_turns(trace, n_in_step, n_groups, checkpoint):
    """In each decode step a wait comes when the other groups' attentions have begun."""
    calls = {
        kind: trace[trace["kind"] == kind]
        for kind in (TraceKind.attend_start, TraceKind.attend_wait)
    }
    starts, waits = calls[TraceKind.attend_start], calls[TraceKind.attend_wait]
    started = dict(zip(starts["offset"], starts["end_ns"], strict=True))
    waited = dict(zip(waits["offset"], waits["begin_ns"], strict=True))
    tickets = sorted(started)[-STEPS * n_in_step :]
    assert len(tickets) == STEPS * n_in_step
    for first in range(0, len(tickets), n_in_step):
        of_step = tickets[first : first + n_in_step]
        if checkpoint == "mixtral":  # its experts' loop takes all rows
            of_step = of_step[:n_groups]
        for ticket, later in zip(of_step, of_step[n_groups - 1 :], strict=False):
            assert started[later] <= waited[ticket]


@pytest.mark.parametrize(
    ("checkpoint", "groups", "dtype"),
    [
        ("llama", 2, "float32"),
        pytest.param("llama", 9, "bfloat16", marks=pytest.mark.slow),
        ("opt", 3, "float32"),
        pytest.param("qwen3", 2, "bfloat16", marks=pytest.mark.slow),
        pytest.param("mixtral", 2, "float32", marks=pytest.mark.slow),
    ],
)
def test_prefill_and_decode_loop(checkpoint, groups, dtype):
    """Ragged prefill, then greedy decode in a loop; one row is idle."""
    decoder = load_decoder(GOLDENS / checkpoint, dtype=dtype)
    graph, state = nnx.split(decoder)

    def generate(state, tokens, caches, n_new, n_steps):
        model = nnx.merge(graph, state)
        hidden, caches = model(tokens, caches, n_new=n_new)
        last = jnp.take_along_axis(hidden, jnp.maximum(n_new - 1, 0)[:, None, None], axis=1)
        active = (n_new > 0).astype(jnp.int32)

        def step(carry):
            i, logits, caches, tokens = carry
            tokens = tokens.at[:, i].set(logits[i].argmax(-1))
            hidden, caches = model(tokens[:, i, None], caches, n_new=active)
            return i + 1, logits.at[i + 1].set(model.logits(hidden[:, 0])), caches, tokens

        first = model.logits(last[:, 0])
        logits = jnp.zeros((STEPS + 1, *first.shape)).at[0].set(first)
        carry = (jnp.int32(0), logits, caches, jnp.zeros((ROWS, STEPS), jnp.int32))
        _, logits, caches, tokens = lax.while_loop(lambda c: c[0] < n_steps, step, carry)
        return logits, tokens, caches

    memory = decoder.init_caches(ROWS, CAPACITY)
    _, _, n_kv_heads, head_dim = memory[0].k.shape
    tokens = jax.random.randint(jax.random.key(0), (ROWS, PROMPT_TOKENS), 3, 90)
    n_new = jnp.array([PROMPT_TOKENS, 7, 0, 15, 1], jnp.int32)
    args = (n_new, jnp.int32(STEPS))
    logits, chosen, _ = jax.jit(generate)(state, tokens, memory, *args)
    with Store("memory:", host_memory="16MiB") as store:
        caches = store.kv_caches(
            len(memory),
            batch=ROWS,
            capacity_tokens=CAPACITY,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            dtype=memory[0].k.dtype,
        )
        pipeline = (
            f"offload-kv,split-attention,interleave{{groups={groups}}},verify-schedule,lower-to-ffi"
        )
        near = near_storage(generate, store=store, pipeline=pipeline)
        near_logits, near_chosen, caches = near(state, tokens, caches, *args)
        n_groups = min(groups, ROWS)
        check_turns(store.trace(), len(memory) * n_groups, n_groups, checkpoint)
        assert caches[0].lengths.tolist() == (n_new + STEPS * (n_new > 0)).tolist()
    rows = np.asarray(n_new) > 0
    scale = float(jnp.abs(logits).max())
    if dtype == "float32":
        np.testing.assert_array_equal(near_chosen[rows], chosen[rows])
        np.testing.assert_allclose(near_logits[:, rows], logits[:, rows], atol=1e-4 * scale)
    else:
        # 8 bits of mantissa; the first tokens' logits, before another token may be chosen
        np.testing.assert_allclose(near_logits[:2, rows], logits[:2, rows], atol=4 * 2**-8 * scale)
