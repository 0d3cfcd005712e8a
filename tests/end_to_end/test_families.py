"""Every model family with its cache in a store, against the same model with it in memory."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nspjax import LLM, SamplingParams, Store, near_storage
from nspjax.models import load_decoder

GOLDENS = Path(__file__).parents[1] / "models" / "goldens"
CHECKPOINTS = sorted(path.parent for path in GOLDENS.glob("*/config.json"))
ROWS, PROMPT_TOKENS, STEPS, CAPACITY = 3, 40, 16, 64


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    # two directories: the units of a row lie on both
    devices = ["memory:"] if request.param == "memory" else [tmp_path / "a", tmp_path / "b"]
    for device in devices[:2] if request.param == "file" else []:
        device.mkdir()
    with Store(*devices, host_memory="16MiB") as store:
        yield store


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda path: path.name)
def test_prefill_and_decode(checkpoint, dtype, store):
    """Ragged prefill and 16 decode steps; the in-memory model chooses the tokens for both."""
    decoder = load_decoder(checkpoint, dtype=dtype)
    graph, state = nnx.split(decoder)

    def step(state, tokens, caches, n_new):
        model = nnx.merge(graph, state)
        hidden, caches = model(tokens, caches, n_new=n_new)
        last = jnp.take_along_axis(hidden, (n_new - 1)[:, None, None], axis=1)
        return model.logits(last[:, 0]), caches

    memory = decoder.init_caches(ROWS, CAPACITY)
    shape = memory[0].k.shape
    stored = store.kv_caches(
        len(memory),
        batch=ROWS,
        capacity_tokens=CAPACITY,
        n_kv_heads=shape[2],
        head_dim=shape[3],
        dtype=memory[0].k.dtype,
    )
    in_memory, near = jax.jit(step), near_storage(step, store=store)
    tokens = jax.random.randint(jax.random.key(0), (ROWS, PROMPT_TOKENS), 3, 90)
    n_new = jnp.array([PROMPT_TOKENS, 7, 23], jnp.int32)
    for _ in range(1 + STEPS):
        expected, memory = in_memory(state, tokens, memory, n_new)
        logits, stored = near(state, tokens, stored, n_new)
        scale = float(jnp.abs(expected).max())
        if dtype == "float32":
            np.testing.assert_allclose(logits, expected, atol=1e-4 * scale)
            np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1))
        else:
            # 8 bits of mantissa, rounded at different places: a few units of the last one
            np.testing.assert_allclose(logits, expected, atol=4 * 2**-8 * scale)
        tokens = expected.argmax(-1).astype(jnp.int32)[:, None]
        n_new = jnp.ones((ROWS,), jnp.int32)


def prompts(n, vocab=90):
    rng = np.random.default_rng(7)
    return [
        {"prompt_token_ids": rng.integers(3, vocab, rng.integers(1, 40)).tolist()} for _ in range(n)
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_answer_does_not_depend_on_its_neighbours(dtype, store):
    """Alone, among 16, in another slot: the same greedy tokens, and those of the memory cache."""
    checkpoint = next(path for path in CHECKPOINTS if path.name.startswith("llama"))
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    settings = {"dtype": dtype, "max_model_len": CAPACITY, "max_num_seqs": 16}

    def tokens(llm, some):
        return [out.outputs[0].token_ids for out in llm.generate(some, params)]

    with LLM(checkpoint, store=store, **settings) as llm:
        together = tokens(llm, prompts(20))
        alone = [tokens(llm, [prompt])[0] for prompt in prompts(20)[:4]]
        turned = tokens(llm, prompts(20)[::-1])[::-1]
    assert alone == together[:4]
    assert turned == together
    if dtype == "float32":
        assert tokens(LLM(checkpoint, **settings), prompts(20)) == together
