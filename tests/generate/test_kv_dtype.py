"""`LLM(kv_dtype=..., interval_tokens=...)`: what it accepts, and what then lies in the store."""

import random
from typing import ClassVar

import pytest
from tiny_decoder import TinyConfig, TinyDecoder

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


class Looking(TinyDecoder):
    """Notes the types of the caches that it is given."""

    seen: ClassVar[set[str]] = set()

    def __call__(self, tokens, caches, **options):
        self.seen.update(array.dtype.name for cache in caches for array in (cache.k, cache.v))
        return super().__call__(tokens, caches, **options)


def generate(llm):
    answers = llm.generate(PROMPTS, GREEDY)
    assert [len(answer.outputs[0].token_ids) for answer in answers] == [8, 8]
    return answers


def tile_bytes(tile_tokens, bits):
    """Of all tiles that are full after `generate`, without the padding to pages, by hand."""
    n_tiles = sum((len(prompt) + 8 - 1) // tile_tokens for prompt in PROMPTS)
    config = TinyConfig()
    n_heads = config.n_layers * config.n_kv_heads
    words = 2 * tile_tokens * config.head_dim * bits // 32
    if bits < 16:  # a scale for each channel and for each token, each of them in whole lines
        words += sum(-(-n // 16) * 16 for n in (config.head_dim, tile_tokens))
    return n_tiles * n_heads * words * 4


@pytest.mark.parametrize(
    ("kv_dtype", "bits"), [(None, 32), ("bfloat16", 16), ("int8", 8), ("int4", 4)]
)
@pytest.mark.parametrize("interval", [16, 64])
def test_tiles_have_the_type_and_the_tokens_that_were_asked_for(
    model, store, kv_dtype, bits, interval
):
    with LLM(model, store=store, kv_dtype=kv_dtype, interval_tokens=interval, **OPTIONS) as llm:
        generate(llm)
        store.flush()
        stats = store.stats()
    assert stats.bytes_written - stats.padding_bytes == tile_bytes(interval, bits) > 0
    n_elements = sum(len(prompt) + 8 - 1 for prompt in PROMPTS) * 2 * 2 * 2 * 8
    # what is appended has 32 bits where only the tiles have fewer
    assert stats.bytes_appended == n_elements * (2 if kv_dtype == "bfloat16" else 4)


@pytest.mark.parametrize("in_store", [False, True], ids=["in memory", "in a store"])
def test_floats_are_kept_as_asked(store, in_store):
    Looking.seen.clear()
    with LLM(Looking(), store=store if in_store else None, kv_dtype="bfloat16", **OPTIONS) as llm:
        generate(llm)
    assert Looking.seen == {"bfloat16"}


def test_the_interval_changes_no_answer(model, store):
    with LLM(model, store=store, interval_tokens=64, **OPTIONS) as llm:
        with_intervals = generate(llm)
    with LLM(model, store=store, **OPTIONS) as llm:
        assert generate(llm) == with_intervals


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
    with pytest.raises(InvalidArgumentError, match="tile_tokens is 3: it must be a power of two"):
        LLM(model, store=store, interval_tokens=3, **OPTIONS)
