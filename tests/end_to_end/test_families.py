"""Every model family with its cache in a store, against the same model with it in memory."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from greedy_steps import last_logits

from nspjax import LLM, SamplingParams, Store, near_storage
from nspjax.models import load_decoder

GOLDENS = Path(__file__).parents[1] / "models" / "goldens"
ONE_A_FAMILY = {
    "llama_llama3_rope",
    "llama_mqa",
    "llama_head_80",
    "mistral_window",
    "mixtral",
    "opt",
    "opt_350m",
    "qwen2_window_layers",
    "qwen3",
}
CHECKPOINTS = [
    pytest.param(path, id=path.name, marks=[] if path.name in ONE_A_FAMILY else pytest.mark.slow)
    for path in sorted(GOLDENS.iterdir())
]
ROWS, PROMPT_TOKENS, STEPS, CAPACITY = 3, 40, 16, 64


def test_the_names_are_right():
    assert {path.name for path in GOLDENS.iterdir()} >= ONE_A_FAMILY


def open_stores(tmp_path):
    """`memory`, and `file` on two directories: the units of a row lie on both."""
    directories = [tmp_path / "a", tmp_path / "b"]
    for directory in directories:
        directory.mkdir()
    return {
        "memory": Store("memory:", host_memory="16MiB"),
        "file": Store(*directories, host_memory="16MiB"),
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_prefill_and_decode(checkpoint, dtype, tmp_path):
    """Ragged prefill and 16 decode steps; the in-memory model chooses the tokens for all."""
    decoder = load_decoder(checkpoint, dtype=dtype)
    graph, state = nnx.split(decoder)
    step = last_logits(graph)
    memory = decoder.init_caches(ROWS, CAPACITY)
    in_memory, near, caches = jax.jit(step), {}, {}
    _, _, n_kv_heads, head_dim = memory[0].k.shape
    stores = open_stores(tmp_path)
    for kind, store in stores.items():
        near[kind] = near_storage(step, store=store)
        caches[kind] = store.kv_caches(
            len(memory),
            batch=ROWS,
            capacity_tokens=CAPACITY,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            dtype=memory[0].k.dtype,
        )
    tokens = jax.random.randint(jax.random.key(0), (ROWS, PROMPT_TOKENS), 3, 90)
    n_new = jnp.array([PROMPT_TOKENS, 7, 23], jnp.int32)
    for _ in range(1 + STEPS):
        expected, memory = in_memory(state, tokens, memory, n_new)
        scale = float(jnp.abs(expected).max())
        for kind in stores:
            logits, caches[kind] = near[kind](state, tokens, caches[kind], n_new)
            if dtype == "float32":
                np.testing.assert_allclose(logits, expected, atol=1e-4 * scale, err_msg=kind)
                np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1), kind)
            else:
                # 8 bits of mantissa, rounded at different places: a few units of the last one
                np.testing.assert_allclose(logits, expected, atol=4 * 2**-8 * scale, err_msg=kind)
        tokens = expected.argmax(-1).astype(jnp.int32)[:, None]
        n_new = jnp.ones((ROWS,), jnp.int32)
    for store in stores.values():
        store.close()


def random_prompts(n):
    rng = np.random.default_rng(7)
    return [
        {"prompt_token_ids": rng.integers(3, 90, rng.integers(1, 40)).tolist()} for _ in range(n)
    ]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_an_answer_does_not_depend_on_its_neighbours(dtype, tmp_path):
    """Alone, among 16, in another slot: the same greedy tokens; in f32 also those in memory."""
    prompts = random_prompts(20)
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)

    def open_llm(store):
        return LLM(
            GOLDENS / "llama", store=store, dtype=dtype, max_model_len=CAPACITY, max_num_seqs=16
        )

    def answers(llm, some):
        return [out.outputs[0].token_ids for out in llm.generate(some, params)]

    expected = {}
    for kind, store in open_stores(tmp_path).items():
        with store, open_llm(store) as llm:
            together = answers(llm, prompts)
            assert [answers(llm, [prompt])[0] for prompt in prompts[:4]] == together[:4]
            assert answers(llm, prompts[::-1])[::-1] == together
            expected[kind] = together
    assert expected["memory"] == expected["file"]
    if dtype == "float32":
        with open_llm(None) as llm:
            assert answers(llm, prompts) == expected["file"]
