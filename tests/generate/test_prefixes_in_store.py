"""Prompts with a common beginning in a store: the same tokens, computed, kept and read once."""

import random

import pytest
from tiny_decoder import TinyConfig, TinyDecoder

import nspjax
from nspjax.generate import LLM, SamplingParams

OPTIONS = {
    "max_num_seqs": 4,
    "prefill_budget_tokens": 256,
    "steps_per_call": 8,
    "share_prefixes": True,
}
GREEDY = SamplingParams(temperature=0, max_tokens=12)
SHARED = random.Random(0).choices(range(48), k=300)
OTHER = random.Random(1).choices(range(48), k=200)


def tail(seed: int, n_tokens: int) -> list[int]:
    return random.Random(seed).choices(range(48), k=n_tokens)


# more than rows; two documents, unrelated ones, one that is the beginning of others
PROMPTS = [
    *(SHARED + tail(n, n) for n in (3, 40, 7)),
    tail(5, 90),
    *(OTHER + tail(n, n) for n in (1, 20)),
    SHARED[:129],
    *(SHARED + tail(n, 30) for n in (50, 51, 52)),
    tail(6, 10),
]


@pytest.fixture(scope="module")
def model():
    return TinyDecoder(TinyConfig(max_position_tokens=400))


@pytest.fixture(scope="module")
def unshared(model):
    """What each prompt is answered with, in memory."""
    with LLM(model, **OPTIONS) as llm:
        answers = llm.generate(PROMPTS, GREEDY)
        assert llm.stats().shared_prompt_tokens == 0
        return answers


@pytest.mark.parametrize(
    "pinned", [pytest.param(None, marks=pytest.mark.slow), "0"], ids=["pinned", "read"]
)
def test_the_tokens_are_those_without(model, unshared, tmp_path, pinned):
    with (
        nspjax.Store(tmp_path, host_memory="64MiB", pinned=pinned) as store,
        LLM(model, store=store, **OPTIONS) as llm,
    ):
        for _ in range(2):  # again, in rows that others have used
            assert llm.generate(PROMPTS, GREEDY) == unshared
        stats = llm.stats()
        n_tokens = 2 * sum(map(len, PROMPTS))
        assert stats.prompt_tokens + stats.shared_prompt_tokens == n_tokens
        # 256 tokens of five prompts, 128 of SHARED[:129] and of one with OTHER, twice
        assert stats.shared_prompt_tokens >= 2 * (5 * 256 + 64 + 128)


@pytest.mark.slow
def test_sharing_can_be_turned_off(model, unshared, tmp_path):
    with (
        nspjax.Store(tmp_path, host_memory="64MiB") as store,
        LLM(model, store=store, **(OPTIONS | {"share_prefixes": False})) as llm,
    ):
        assert llm.generate(PROMPTS, GREEDY) == unshared
        assert llm.stats().shared_prompt_tokens == 0
        assert llm.stats().prompt_tokens == sum(map(len, PROMPTS))


def test_the_answers_of_one_request_share_its_prompt(model, tmp_path):
    drawn = SamplingParams(n=3, temperature=1.0, seed=7, max_tokens=12)
    with LLM(model, **OPTIONS) as llm:
        alone = llm.generate([SHARED], drawn)
    with (
        nspjax.Store(tmp_path, host_memory="64MiB") as store,
        LLM(model, store=store, **OPTIONS) as llm,
    ):
        assert llm.generate([SHARED], drawn) == alone
        assert llm.stats().shared_prompt_tokens == 2 * 256


@pytest.mark.slow
def test_rows_whose_heads_lie_on_other_devices_do_not_share(tmp_path):
    model = TinyDecoder(TinyConfig(max_position_tokens=400, n_kv_heads=1))
    prompts = [[*SHARED, n] for n in range(4)]
    with LLM(model, **OPTIONS) as llm:
        alone = llm.generate(prompts, GREEDY)
    for name in "ab":
        (tmp_path / name).mkdir()
    with (
        nspjax.Store(tmp_path / "a", tmp_path / "b", host_memory="64MiB") as store,
        LLM(model, store=store, **OPTIONS) as llm,
    ):
        assert llm.generate(prompts, GREEDY) == alone
        assert llm.stats().shared_prompt_tokens == 2 * 256, "even rows, and odd ones"


def test_a_step_reads_the_common_part_once(model, tmp_path):
    n_rows, n_steps = 8, 32
    prompts = [[*SHARED[:256], n] for n in range(n_rows)]

    def bytes_read(llm, max_tokens: int) -> int:
        before = store.stats().bytes_read
        llm.generate(prompts, SamplingParams(temperature=0, max_tokens=max_tokens))
        return store.stats().bytes_read - before

    def bytes_of_a_step(share: bool) -> float:
        options = {"max_num_seqs": n_rows, "interval_tokens": 64, "share_prefixes": share}
        with LLM(model, store=store, **(OPTIONS | options)) as llm:
            return (bytes_read(llm, n_steps + 1) - bytes_read(llm, 1)) / n_steps

    with nspjax.Store(tmp_path, host_memory="64MiB", pinned="0") as store:
        shared, whole = bytes_of_a_step(True), bytes_of_a_step(False)
    one_row = 256 * (2 * 2 * 8 * 4) * model.config.n_layers  # K, V of two heads of 8 floats
    assert whole == pytest.approx(n_rows * one_row, rel=0.1)
    assert 0.9 * one_row < shared < 1.1 * one_row
