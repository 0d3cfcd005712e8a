"""`LLM` with its KV cache in a store: as in memory, and what only a store can do."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_decoder import TinyConfig, TinyDecoder

import nspjax
from nspjax.errors import (
    InvalidArgumentError,
    PipelineError,
    StoreClosedError,
    StoreFullError,
)
from nspjax.generate import LLM, SamplingParams

OPTIONS = {"max_num_seqs": 3, "prefill_budget_tokens": 32, "steps_per_call": 8}
PAGE_BYTES = 4096
GREEDY = SamplingParams(temperature=0, max_tokens=12)
# more prompts than rows; the longest is prefilled in three pieces
PROMPTS = [random.Random(n).choices(range(48), k=n) for n in (5, 70, 1, 16, 17, 33)]


@pytest.fixture(scope="module")
def model():
    return TinyDecoder()


@pytest.fixture(scope="module")
def in_memory(model):
    """What the model answers with its cache in memory."""
    with LLM(model, **OPTIONS) as llm:
        return llm.generate(PROMPTS, GREEDY)


@pytest.fixture
def store(tmp_path):
    with nspjax.Store(tmp_path, host_memory="64MiB") as opened:
        yield opened


def test_the_tokens_are_those_of_a_cache_in_memory(model, in_memory, store):
    with LLM(model, store=store, **OPTIONS) as llm:
        assert llm.generate(PROMPTS, GREEDY) == in_memory
        assert store.stats().bytes_appended > 0
    assert store.stats().kv_bytes_stored == 0, "closing gives the room back"


def test_a_model_with_a_window_has_room_for_no_more(store):
    """Prompts longer than the window, in pieces, and answers that go on from them."""
    model = TinyDecoder(TinyConfig(window_tokens=20))
    with LLM(model, **OPTIONS) as llm:
        expected = llm.generate(PROMPTS, GREEDY)
    with LLM(model, store=store, interval_tokens=16, **OPTIONS) as llm:
        assert llm.generate(PROMPTS, GREEDY) == expected
        room = [store.devices()[0].reserved_bytes // PAGE_BYTES]
    with LLM(model, store=store, interval_tokens=16, share_prefixes=True, **OPTIONS):
        room.append(store.devices()[0].reserved_bytes // PAGE_BYTES)  # what is shared is whole
    tile_pages = -(-2 * 16 * 2 * 8 * 4 // PAGE_BYTES)
    assert room == [2 * 3 * n_tiles * tile_pages for n_tiles in (3, 8)]


def test_no_room_for_all_rows_is_said_before_anything_runs(model, store):
    with pytest.raises(StoreFullError, match=r"1000000 rows .*host_memory of at least"):
        LLM(model, store=store, max_num_seqs=10**6)


class Interrupted(TinyDecoder):
    """Its decode steps call `Interrupted.call`, which may raise."""

    call = staticmethod(lambda: None)

    def __call__(self, tokens, caches, **options):
        hidden, caches = super().__call__(tokens, caches, **options)
        if tokens.shape[1] == 1:
            result = jax.ShapeDtypeStruct((), jnp.int32)

            def call(_):
                Interrupted.call()
                return np.int32(0)

            hidden += jax.pure_callback(call, result, hidden[0, 0, 0]).astype(hidden.dtype)
        return hidden, caches


def test_after_a_call_that_failed_in_memory_the_llm_goes_on(in_memory, monkeypatch):
    def fail():
        raise OSError("the machine is on fire")

    with LLM(Interrupted(), **OPTIONS) as llm:
        assert llm.generate(PROMPTS[:1], GREEDY) == in_memory[:1]
        with monkeypatch.context() as patch:
            patch.setattr(Interrupted, "call", staticmethod(fail))
            with pytest.raises(Exception, match="the machine is on fire"):
                llm.generate(PROMPTS[:1], GREEDY)
        assert llm.generate(PROMPTS, GREEDY) == in_memory


def test_the_engine_s_errors_come_as_what_they_are(model, store):
    with LLM(model, store=store, **OPTIONS) as llm:
        llm.generate(PROMPTS[:1], GREEDY)
        store.close()
        with pytest.raises(StoreClosedError, match="is closed"):
            llm.generate(PROMPTS[:1], GREEDY)


def test_a_store_may_be_closed_before_its_llm(model, tmp_path):
    with nspjax.Store(tmp_path, host_memory="64MiB") as store:
        llm = LLM(model, store=store, **OPTIONS)
    llm.close()


def test_a_pipeline_of_one_s_own(model, in_memory, store):
    pipeline = "offload-kv,lower-to-ffi"
    with LLM(model, store=store, pipeline=pipeline, **OPTIONS) as llm:
        assert llm.generate(PROMPTS, GREEDY) == in_memory
    with pytest.raises(PipelineError, match="there is no pass 'none'"):
        LLM(model, store=store, pipeline="none", **OPTIONS)
    with pytest.raises(InvalidArgumentError, match="x-cache keeps X in their place"):
        LLM(model, store=store, pipeline="hilos", share_prefixes=True, **OPTIONS)
    with pytest.raises(InvalidArgumentError, match="needs a store"):
        LLM(model, pipeline=pipeline, **OPTIONS)
