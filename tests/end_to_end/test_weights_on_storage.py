"""Models whose weights lie in a store: bit for bit what they compute with weights in memory."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from greedy_steps import last_logits

from nspjax import LLM, SamplingParams, Store, near_storage
from nspjax.errors import InvalidArgumentError, StoreFullError
from nspjax.models import load_decoder
from nspjax.runtime.trace import TraceKind

GOLDENS = Path(__file__).parents[1] / "models" / "goldens"
ROWS, CAPACITY = 3, 64
PARAMS = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
PROMPTS = [{"prompt_token_ids": list(range(3, 3 + n))} for n in (5, 20, 1, 33)]


def open_store(kind, tmp_path, **options):
    if kind == "memory":
        return Store("memory:", host_memory="16MiB", **options)
    directories = [tmp_path / "a", tmp_path / "b"]
    for directory in directories:
        directory.mkdir()
    return Store(*directories, host_memory="16MiB", **options)


@pytest.mark.parametrize(
    ("checkpoint", "dtype", "kind"),
    [
        ("llama", "bfloat16", "memory"),
        ("llama", "float32", "file"),
        ("opt", "bfloat16", "file"),
        pytest.param("mixtral", "bfloat16", "file", marks=pytest.mark.slow),
    ],
)
def test_the_logits_are_the_same_bits(checkpoint, dtype, kind, tmp_path):
    """Prefill and decode steps; some weights offloaded, and all of them."""
    decoder = load_decoder(GOLDENS / checkpoint, dtype=dtype)
    graph, state = nnx.split(decoder)
    n_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    step = last_logits(graph)
    shape = jax.eval_shape(lambda: decoder.init_caches(ROWS, CAPACITY))[0].k
    with open_store(kind, tmp_path) as store:
        near = near_storage(step, store=store)
        half, none = (store.offload_weights(state, resident=n) for n in (n_bytes // 2, 0))
        assert n_bytes * 1.4 < store.stats().weight_bytes_stored < n_bytes * 1.8
        sizes = {"capacity_tokens": CAPACITY, "n_kv_heads": shape.shape[2]}
        sizes |= {"batch": ROWS, "head_dim": shape.shape[3], "dtype": shape.dtype}
        weights = [state, half, none]
        caches = [store.kv_caches(decoder.config.n_layers, **sizes) for _ in weights]
        tokens = jax.random.randint(jax.random.key(0), (ROWS, 20), 3, 90)
        n_new = jnp.array([20, 7, 13], jnp.int32)
        for _ in range(4):
            logits = [None] * len(weights)
            for i, each in enumerate(weights):
                logits[i], caches[i] = near(each, tokens, caches[i], n_new)
            np.testing.assert_array_equal(logits[1], logits[0])
            np.testing.assert_array_equal(logits[2], logits[0])
            tokens = logits[0].argmax(-1).astype(jnp.int32)[:, None]
            n_new = jnp.ones((ROWS,), jnp.int32)


def answers(llm):
    return [output.outputs[0].token_ids for output in llm.generate(PROMPTS, PARAMS)]


@pytest.mark.slow
@pytest.mark.parametrize(("checkpoint", "kind"), [("llama", "memory"), ("opt", "file")])
def test_an_llm_answers_the_same(checkpoint, kind, tmp_path):
    options = {"max_num_seqs": 3, "max_model_len": CAPACITY, "dtype": "float32"}
    decoder = load_decoder(GOLDENS / checkpoint, dtype="float32")
    with LLM(decoder, **options) as llm:
        expected = answers(llm)
    with open_store(kind, tmp_path) as store:
        for model, resident in [(GOLDENS / checkpoint, "20KiB"), (decoder, 0)]:
            with LLM(model, store=store, weights_resident=resident, **options) as llm:
                assert store.stats().weight_bytes_stored > 0
                assert answers(llm) == expected
            assert store.stats().weight_bytes_stored == 0, "closing gives the room back"


def test_a_layer_s_weights_are_loaded_after_the_attention_before(tmp_path):
    """From the trace: between two attentions lie the loads of one layer, in every step."""
    decoder = load_decoder(GOLDENS / "llama", dtype="float32")
    graph, state = nnx.split(decoder)
    with open_store("file", tmp_path) as store:
        weights = store.offload_weights(state, resident=0)

        @jax.jit
        def step(weights, tokens, caches):
            hidden, caches = nnx.merge(graph, weights)(tokens, caches)
            return nnx.merge(graph, weights).logits(hidden), caches

        caches = store.kv_caches(
            decoder.config.n_layers,
            batch=1,
            capacity_tokens=CAPACITY,
            n_kv_heads=decoder.config.n_kv_heads,
            head_dim=decoder.config.head_dim,
            dtype="float32",
        )
        near_storage(step, store=store)(weights, jnp.ones((1, 1), jnp.int32), caches)
        events = store.trace()
        calls = events[np.isin(events["kind"], [TraceKind.attend, TraceKind.load])]
        calls = calls[np.argsort(calls["begin_ns"])]
        attends = np.flatnonzero(calls["kind"] == TraceKind.attend)
        assert len(attends) == decoder.config.n_layers == 2
        # embedding, norm, q, k, v | out, norm, gate, up, down, norm, q, k, v | the rest
        assert attends.tolist() == [5, 15]
        names = {int(w.handle[1]) for w in jax.tree.leaves(weights, is_leaf=is_stored)}
        assert set(calls["cache"][calls["kind"] == TraceKind.load]) == names


def test_a_schedule_reads_weights_ahead(tmp_path):
    """`prefetch` announces the next layer's weights; a few are begun before they are loaded."""
    decoder = load_decoder(GOLDENS / "llama", dtype="float32")
    options = {"max_num_seqs": 3, "max_model_len": CAPACITY, "pipeline": "ans"}
    with open_store("file", tmp_path) as store:
        with LLM(decoder, store=store, **options) as llm:
            expected = answers(llm)
        with LLM(decoder, store=store, weights_resident=0, **options) as llm:
            assert answers(llm) == expected
        stats = store.stats()
        assert 0 < stats.weight_bytes_read_ahead < stats.weight_bytes_read
        events = store.trace()
        assert np.isin([TraceKind.load, TraceKind.load_ahead], events["kind"]).all()


def is_stored(value):
    return hasattr(value, "handle")


def test_a_read_that_fails_is_said_and_done_again(tmp_path):
    decoder = load_decoder(GOLDENS / "llama", dtype="float32")
    with (
        open_store("file", tmp_path, _fault="read:eio") as store,
        LLM(decoder, store=store, weights_resident=0, max_num_seqs=2) as llm,
    ):
        with pytest.warns(RuntimeWarning, match=r"read of \d+ bytes .*nspjax\.weights.*going on"):
            outputs = llm.generate(PROMPTS, PARAMS)
        assert [output.error for output in outputs] == [None] * len(PROMPTS)


def test_what_is_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"weights_resident='1GiB'.*give store="):
        LLM(GOLDENS / "llama", weights_resident="1GiB")
    with open_store("file", tmp_path, _fault="write:enospc:times=1000") as store:
        with pytest.raises(StoreFullError, match=r"nspjax\.weights"):
            LLM(GOLDENS / "llama", store=store, weights_resident=0)
        assert store.stats().weight_bytes_stored == 0
