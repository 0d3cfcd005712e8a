"""`LLM` whose decode steps read a part of V."""

import random

import pytest
from tiny_decoder import TinyConfig, TinyDecoder

import nspjax
from nspjax.errors import InvalidArgumentError, PipelineError
from nspjax.generate import LLM, SamplingParams

OPTIONS = {"max_num_seqs": 3, "prefill_budget_tokens": 64, "steps_per_call": 8}
GREEDY = SamplingParams(temperature=0, max_tokens=12)
PROMPTS = [random.Random(n).choices(range(48), k=n) for n in (5, 300, 180, 251)]


@pytest.fixture(scope="module")
def model():
    return TinyDecoder(TinyConfig(max_position_tokens=512))


def answers(model, directory, **options):
    """The tokens, and what the store counted. int8: the sketch then has the K that is stored."""
    settings = {"kv_dtype": "int8", "interval_tokens": 16, **OPTIONS, **options}
    with nspjax.Store(directory, host_memory="64MiB", pinned="0") as store:
        with LLM(model, store=store, **settings) as llm:
            outputs = llm.generate(PROMPTS, GREEDY)
        return [output.outputs[0].token_ids for output in outputs], store.stats()


@pytest.mark.parametrize("options", [
    pytest.param({}, marks=pytest.mark.slow), {"pipeline": "ans+writeback"},
    {"pipeline": "ans", "share_prefixes": True},
], ids=["default", "ans+writeback", "shared"])  # fmt: skip
def test_nearly_all_of_the_mass_gives_the_dense_tokens(model, tmp_path, options):
    dense, _ = answers(model, tmp_path, **options)
    sparse, stats = answers(model, tmp_path, attention="mass=0.999999", **options)
    assert sparse == dense
    assert stats.sparse_heads > 0
    assert stats.left_out <= 1e-6


def test_a_budget_bounds_what_is_read_and_says_what_it_left_out(model, tmp_path):
    _, stats = answers(model, tmp_path, attention="mass=0.99,budget=0.2")
    assert stats.sketch_bytes == 0, "closing the LLM gives the memory back"
    steady = 16 + 64 + 16  # the first block, the newest, and the tail
    heads = stats.sparse_heads
    assert stats.sparse_tokens_read <= 0.2 * stats.sparse_tokens + heads * (steady + 16)
    assert 0.1 < stats.left_out < 0.9
    assert stats.left_out <= stats.most_left_out_ppb / 1e9 <= 1


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"attention": "mass=2"}, PipelineError, "mass must be from 1e-06 to 1, got 2.0"),
    ({"attention": "block-tokens=48"}, PipelineError, "must be a power of two from 16 on"),
    ({"attention": "mass=0.9},prefetch{"}, PipelineError, "must be options of sparsify"),
    ({"attention": "mass=0.9", "pipeline": "offload-kv,sparsify,lower-to-ffi"}, PipelineError,
     "which the pipeline must not have already"),
    ({"attention": "mass=0.9", "pipeline": "baseline"}, PipelineError, "haul-kv brings all of K"),
    ({"attention": "depth=2"}, PipelineError, "sparsify has no option 'depth'; it has:"),
    ({"attention": "mass=0.9", "pipeline": "hilos"}, PipelineError, "x-cache keeps X in its place"),
    ({"attention": "mass=0.9", "interval_tokens": 8, "kv_dtype": None}, InvalidArgumentError,
     "tile_tokens is 8"),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_work_starts(model, tmp_path, options, error, message):
    with (
        pytest.raises(error, match=message),
        nspjax.Store(tmp_path, host_memory="64MiB") as store,
    ):
        LLM(model, store=store, **OPTIONS, **options)


def test_layers_that_all_have_a_window_read_no_less(tmp_path):
    model = TinyDecoder(TinyConfig(window_tokens=20))
    with (
        pytest.raises(InvalidArgumentError, match="all layers see a window of 20 tokens"),
        nspjax.Store(tmp_path, host_memory="64MiB") as store,
    ):
        LLM(model, store=store, attention="mass=0.9", **OPTIONS)


def test_it_needs_a_store(model):
    with pytest.raises(InvalidArgumentError, match=r"attention='mass=0.9' needs a store"):
        LLM(model, attention="mass=0.9", **OPTIONS)
