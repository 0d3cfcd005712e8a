"""`LLM` with its KV cache in a store: as in memory, and what only a store can do."""

import random

import pytest
from tiny_decoder import TinyDecoder

import nspjax
from nspjax.errors import (
    InvalidArgumentError,
    PipelineError,
    StaleHandleError,
    StorageIOError,
    StoreFullError,
)
from nspjax.generate import LLM, SamplingParams

OPTIONS = {"max_num_seqs": 3, "prefill_budget_tokens": 32, "steps_per_call": 8}
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


def test_no_room_for_all_rows_is_said_before_anything_runs(model, store):
    with pytest.raises(StoreFullError, match=r"\d"):
        LLM(model, store=store, max_num_seqs=10**6)


@pytest.mark.filterwarnings("ignore:the disk is gone; going on")
@pytest.mark.parametrize("in_store", [False, True], ids=["in memory", "in a store"])
def test_after_a_failed_call_the_llm_goes_on(model, in_memory, store, monkeypatch, in_store):
    with LLM(model, store=store if in_store else None, **OPTIONS) as llm:
        decode = llm._runner._decode

        def fail(weights, caches, batch):
            decode(weights, caches, batch)  # which consumes the caches
            raise StorageIOError("the disk is gone")

        monkeypatch.setattr(llm._runner, "_decode", fail)
        with pytest.raises(StorageIOError, match="the disk is gone"):
            llm.generate(PROMPTS[:1], GREEDY)
        monkeypatch.undo()
        assert llm.generate(PROMPTS[:1], GREEDY) == in_memory[:1]


def test_the_engine_s_errors_come_as_what_they_are(model, store):
    with LLM(model, store=store, **OPTIONS) as llm:
        stale = llm._runner._caches
        llm.generate(PROMPTS[:1], GREEDY)
        llm._runner._caches = stale
        with pytest.raises(StaleHandleError):
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
