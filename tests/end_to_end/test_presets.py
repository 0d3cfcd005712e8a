"""Every preset, and the schedules that a preset may choose, against the cache in memory."""

import contextlib
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from greedy_steps import greedy_calls, last_logits

from nspjax import LLM, SamplingParams, Store, near_storage
from nspjax.compiler.driver.presets import PRESETS
from nspjax.errors import StorageIOError
from nspjax.generate import model_runner
from nspjax.models import load_decoder

GOLDENS = Path(__file__).parents[1] / "models" / "goldens"
FAMILIES = [
    "llama_llama3_rope",
    "mistral_window",
    "mixtral",
    "opt",
    "qwen2_window_layers",
    "qwen3",
]
QUICK = {("llama_llama3_rope", "float32")}
PIPELINES = {
    **{name: name for name in PRESETS},
    # what rates would have to be for the presets to choose it
    "half of the rows X": "offload-kv,x-cache{fraction=0.5},split-attention,delay-writeback,"
    "prefetch,lower-to-ffi",
    "two groups": "offload-kv,split-attention,interleave{groups=2},"
    "delay-writeback{placement=outside-scan},prefetch,lower-to-ffi",
    "all": "offload-kv,x-cache{fraction=0.5},split-attention,interleave{groups=3},"
    "delay-writeback{interval=4 placement=step-end},prefetch{distance=2},lower-to-ffi",
}
CASES = [
    pytest.param(family, dtype, id=f"{family}-{dtype}", marks=marks)
    for family in FAMILIES
    for dtype in ("float32", "bfloat16")
    for marks in ([] if (family, dtype) in QUICK else [pytest.mark.slow],)
]
ROWS, PROMPT_TOKENS, STEPS, CAPACITY = 4, 40, 12, 64
N_NEW = [PROMPT_TOKENS, 7, 23, 16]


@pytest.mark.parametrize(("family", "dtype"), CASES)
def test_same_answers(family, dtype, tmp_path):
    """Ragged prefill and decode on `memory` and on `file` over two directories: the same greedy
    tokens in float32, logits within a few units of the last place in bfloat16."""
    decoder = load_decoder(GOLDENS / family, dtype=dtype)
    graph, state = nnx.split(decoder)
    step = last_logits(graph)
    tokens = jax.random.randint(jax.random.key(0), (ROWS, PROMPT_TOKENS), 3, 90)
    empty = decoder.init_caches(ROWS, CAPACITY)
    calls = greedy_calls(jax.jit(step), state, empty, tokens, N_NEW, STEPS)
    shape = empty[0].k
    for name, pipeline in PIPELINES.items():
        for kind, devices in devices_of(tmp_path).items():
            with Store(*devices, host_memory="16MiB") as store:
                near = near_storage(step, store=store, pipeline=pipeline)
                caches = store.kv_caches(
                    decoder.config.n_layers,
                    batch=ROWS,
                    capacity_tokens=CAPACITY,
                    n_kv_heads=shape.shape[2],
                    head_dim=shape.shape[3],
                    dtype=shape.dtype,
                    interval_tokens=4,
                )
                for tokens, n_new, expected in calls:
                    logits, caches = near(state, tokens, caches, n_new)
                    check(logits, expected, dtype, f"{name} on {kind}")


def devices_of(tmp_path):
    directories = [tmp_path / "a", tmp_path / "b"]
    for directory in directories:
        directory.mkdir(exist_ok=True)
    return {"memory": ["memory:"], "file": directories}


def check(logits, expected, dtype, where):
    scale = float(np.abs(expected).max())
    if dtype == "float32":
        np.testing.assert_allclose(logits, expected, atol=1e-4 * scale, err_msg=where)
        np.testing.assert_array_equal(logits.argmax(-1), expected.argmax(-1), where)
    else:
        # 8 bits of mantissa, rounded at different places: a few units of the last one
        np.testing.assert_allclose(logits, expected, atol=4 * 2**-8 * scale, err_msg=where)


@pytest.fixture(scope="module")
def answered():
    """What an LLM answers with its cache in memory: more prompts than rows."""
    draw = np.random.default_rng(3)
    prompts = [
        {"prompt_token_ids": draw.integers(3, 90, draw.integers(1, 40)).tolist()} for _ in range(9)
    ]
    with LLM(GOLDENS / "llama", **LLM_OPTIONS) as llm:
        return prompts, [out.outputs[0].token_ids for out in llm.generate(prompts, GREEDY)]


LLM_OPTIONS = {"dtype": "float32", "max_model_len": CAPACITY, "max_num_seqs": 4}
GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("baseline", marks=pytest.mark.slow),
        "half of the rows X",
        pytest.param("two groups", marks=pytest.mark.slow),
    ],
)
def test_an_llm_reuses_rows(name, answered):
    prompts, expected = answered
    with (
        Store("memory:", host_memory="16MiB") as store,
        LLM(GOLDENS / "llama", store=store, pipeline=PIPELINES[name], **LLM_OPTIONS) as llm,
    ):
        assert [out.outputs[0].token_ids for out in llm.generate(prompts, GREEDY)] == expected


@pytest.mark.filterwarnings("ignore:the disk is gone; going on")
def test_rows_of_x_begin_anew_after_a_failure(answered, monkeypatch):
    """What a cache alone does not hold is not taken for whole."""
    prompts, expected = answered
    calls = []

    @contextlib.contextmanager
    def fail_after_the_prefill():
        yield  # the call has run, and consumed the caches
        calls.append(None)
        if len(calls) > 1:
            raise StorageIOError("the disk is gone")

    with (
        Store("memory:", host_memory="16MiB") as store,
        LLM(
            GOLDENS / "llama", store=store, pipeline=PIPELINES["half of the rows X"], **LLM_OPTIONS
        ) as llm,
    ):
        monkeypatch.setattr(model_runner, "engine_errors", fail_after_the_prefill)
        with pytest.raises(StorageIOError, match="the disk is gone"):
            llm.generate(prompts[:1], GREEDY)
        assert len(calls) == 2
        monkeypatch.undo()
        assert [out.outputs[0].token_ids for out in llm.generate(prompts, GREEDY)] == expected
