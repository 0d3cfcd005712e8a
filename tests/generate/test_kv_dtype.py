"""`LLM(kv_dtype=..., interval_tokens=...)`: what it accepts, and what then lies in the store."""

import random

import pytest
from tiny_decoder import TinyDecoder

import nspjax
from nspjax.errors import InvalidArgumentError
from nspjax.generate import LLM, SamplingParams

OPTIONS = {"max_num_seqs": 2, "prefill_budget_tokens": 64, "steps_per_call": 8}
GREEDY = SamplingParams(temperature=0, max_tokens=8)
PROMPTS = [random.Random(n).choices(range(48), k=n) for n in (100, 40)]


@pytest.fixture(scope="module")
def model():
    return TinyDecoder()


@pytest.fixture
def store():
    with nspjax.Store("memory:", host_memory="64MiB") as opened:
        yield opened


@pytest.mark.parametrize("kv_dtype", ["int8", "int4"])
def test_integers_are_stored(model, store, kv_dtype):
    def payload_bytes():
        store.flush()
        stats = store.stats()
        return stats.bytes_written - stats.padding_bytes  # of tiles this small most is padding

    with LLM(model, store=store, kv_dtype=kv_dtype, **OPTIONS) as llm:
        answers = llm.generate(PROMPTS, GREEDY)
        assert [len(answer.outputs[0].token_ids) for answer in answers] == [8, 8]
    in_integers = payload_bytes()
    with LLM(model, store=store, **OPTIONS) as llm:
        llm.generate(PROMPTS, GREEDY)
    assert 0 < in_integers < payload_bytes() - in_integers


@pytest.mark.parametrize("in_store", [False, True], ids=["in memory", "in a store"])
def test_floats_are_kept_as_asked(model, store, in_store):
    with LLM(model, store=store if in_store else None, kv_dtype="bfloat16", **OPTIONS) as llm:
        answers = llm.generate(PROMPTS, GREEDY)
        assert [len(answer.outputs[0].token_ids) for answer in answers] == [8, 8]
        caches = llm._runner._caches
        kept = {(cache.dtype if in_store else cache.k.dtype).name for cache in caches}
        assert kept == {"bfloat16"}


def test_the_interval_is_the_store_s_tile(model, store):
    with LLM(model, store=store, interval_tokens=32, **OPTIONS) as llm:
        cache_id = int(llm._runner._caches[0].k[1])
        assert store._engine.tile_tokens(cache_id) == 32
        with_intervals = llm.generate(PROMPTS, GREEDY)
    with LLM(model, store=store, **OPTIONS) as llm:
        assert llm.generate(PROMPTS, GREEDY) == with_intervals


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"kv_dtype": "int8"}, "kv_dtype='int8' is a store's: give store="),
        ({"kv_dtype": "int4"}, "kv_dtype='int4' is a store's: give store="),
        ({"kv_dtype": "int7"}, "cannot be int7: choose one of float32, .* int8, int4"),
        ({"kv_dtype": "complex64"}, "cannot be complex64"),
        ({"interval_tokens": 64}, "interval_tokens=64 .* needs store="),
    ],
)
def test_refused_before_the_model_is_loaded(asked, message):
    with pytest.raises(InvalidArgumentError, match=message):
        LLM("no/such/checkpoint", **asked)


def test_an_interval_that_no_tile_has(model, store):
    with pytest.raises(InvalidArgumentError, match="3"):
        LLM(model, store=store, interval_tokens=3, **OPTIONS)
