"""A store that fails: what it costs, and that it costs no more than that."""

import contextlib
import json
import os
import random
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_decoder import TinyConfig, TinyDecoder

import nspjax
from nspjax.errors import InvalidArgumentError, StorageIOError, StoreDamagedError, StoreFullError
from nspjax.generate import LLM, Request, RequestOutput, SamplingParams
from nspjax.generate.batch.job import BatchJob
from nspjax.generate.isolation import Verdict, judge
from nspjax.ops import KVCache

pytestmark = pytest.mark.filterwarnings("ignore:.*; going on:RuntimeWarning")

OPTIONS = {
    "max_num_seqs": 3,
    "prefill_budget_tokens": 64,
    "steps_per_call": 4,
    "interval_tokens": 16,
    "share_prefixes": True,
}
FIRST_TILE = 4096
"""Where the first tile of row 0 lies in the first layer."""
SHARED = random.Random(0).choices(range(48), k=130)
# the first and the third, which have the first and the last row, have it long
LENGTHS = [90, 70, 40, 100, 66, 20, 81]
PROMPTS = [random.Random(n).choices(range(48), k=n) for n in LENGTHS]
PARAMS = [SamplingParams(temperature=0, max_tokens=60 if i in (0, 2) else 10) for i in range(7)]


@pytest.fixture(scope="module")
def model():
    return TinyDecoder(TinyConfig(max_position_tokens=256))


@pytest.fixture(scope="module")
def undisturbed(model):
    """What the prompts are answered with in memory."""
    options = {name: value for name, value in OPTIONS.items() if name != "interval_tokens"}
    with LLM(model, **options) as llm:
        return [output.outputs for output in llm.generate(PROMPTS, PARAMS)]


@pytest.fixture
def open_llm(model, tmp_path):
    """open_llm(fault): an LLM, and its store, all of whose full tiles are on a device."""

    @contextlib.contextmanager
    def open_one(fault: str = "", **options):
        with (
            nspjax.Store(tmp_path, host_memory="64MiB", pinned="0", _fault=fault) as store,
            LLM(model, store=store, **(OPTIONS | options)) as llm,
        ):
            yield llm, store

    return open_one


def damage(store, offset: int = FIRST_TILE) -> None:
    """Flip a bit on the device."""
    store.flush()
    with open(store.devices()[0].path, "rb+") as file:
        file.seek(offset + 100)
        byte = file.read(1)[0]
        file.seek(offset + 100)
        file.write(bytes([byte ^ 1]))


def cut_last_row(store) -> None:
    """Take the last row's tiles of the last layer away."""
    store.flush()
    row_bytes = 256 // 16 * 4096
    os.truncate(store.devices()[0].path, FIRST_TILE + 5 * row_bytes)


def served(llm, prompts, params, meanwhile: Callable[[], None]) -> list[RequestOutput]:
    """All outputs in the order of the prompts, each of which must come once. `meanwhile` runs when
    a row is free for the last prompt, and others are in the middle of their answers."""

    def requests() -> Iterator[Request]:
        for i, (prompt, setting) in enumerate(zip(prompts, params, strict=True)):
            if i == len(prompts) - 1:
                meanwhile()
            yield Request(str(i), prompt, setting)

    outputs = {}
    for output in llm.stream(requests()):
        assert output.request_id not in outputs
        outputs[output.request_id] = output
    assert len(outputs) == len(prompts)
    return [outputs[str(i)] for i in range(len(prompts))]


# ---- what lies on the device is damaged ---------------------------------------------------------


def test_a_flipped_bit_costs_the_answer_that_it_is_in(open_llm, undisturbed):
    with open_llm() as (llm, store):
        outputs = served(llm, PROMPTS, PARAMS, lambda: damage(store))
        assert isinstance(outputs[0].error, StoreDamagedError)
        for part in (f"offset {FIRST_TILE} of", store.devices()[0].path, "checksum"):
            assert part in str(outputs[0].error)
        assert outputs[0].outputs == ()
        assert [output.outputs for output in outputs[1:]] == undisturbed[1:]
        assert [output.error for output in outputs[1:]] == [None] * 6
        # the row is used again
        assert [output.outputs for output in llm.generate(PROMPTS, PARAMS)] == undisturbed


def test_a_flipped_bit_that_rows_share_costs_time_alone(model, open_llm):
    prompts = [[*SHARED, n] for n in range(7)]
    options = {name: value for name, value in OPTIONS.items() if name != "interval_tokens"}
    with LLM(model, **options) as llm:
        alone = [output.outputs for output in llm.generate(prompts, PARAMS)]
    with open_llm() as (llm, store):
        outputs = served(llm, prompts, PARAMS, lambda: damage(store))
        assert [output.outputs for output in outputs] == alone
        assert llm.stats().shared_prompt_tokens > 0
        assert llm.stats().generated_tokens == 2 * 60 + 5 * 10
        assert llm.stats().prompt_tokens + llm.stats().shared_prompt_tokens > sum(map(len, prompts))


# ---- transfers fail -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "after", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 20, 60))]
)
def test_a_read_that_fails_once_costs_no_answer(open_llm, undisturbed, after):
    """A warning tells it, or, where nobody had asked for what was read, a counter."""
    with open_llm(f"read:eio:after={after}") as (llm, store):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert [output.outputs for output in llm.generate(PROMPTS, PARAMS)] == undisturbed
        assert len(caught) + store.stats().n_failed_reads_ahead == 1
        told = r".*read of .* at offset \d+ of .*; going on"
        assert all(re.match(told, str(warning.message), re.DOTALL) for warning in caught)


def test_a_place_that_cannot_be_read_costs_one_answer(open_llm, undisturbed):
    """The row is used again: what is written there and has not arrived is not read from there."""
    with open_llm("write:late:times=1000000") as (llm, store):
        outputs = served(llm, PROMPTS, PARAMS, lambda: cut_last_row(store))
        assert isinstance(outputs[2].error, StorageIOError)
        assert "at offset" in str(outputs[2].error)
        others = [i for i in range(7) if i != 2]
        assert [outputs[i].error for i in others] == [None] * 6
        assert [outputs[i].outputs for i in others] == [undisturbed[i] for i in others]


def test_a_device_that_is_gone_ends_the_run(open_llm):
    with open_llm("read:eio:after=60:times=1000000") as (llm, _):
        with pytest.raises(StorageIOError, match="at offset"):
            llm.generate(PROMPTS, PARAMS)
        assert llm.stats().rows_running == 0


def test_a_device_that_comes_back_is_used_again(open_llm, undisturbed):
    """All that was on it is gone, and costs the answers that were in the middle of it."""
    with open_llm() as (llm, store):
        path = Path(store.devices()[0].path)
        n_bytes = []

        def empty() -> None:
            store.flush()
            n_bytes.append(path.stat().st_size)
            os.truncate(path, FIRST_TILE)

        outputs = served(llm, PROMPTS, PARAMS, empty)
        for i, output in enumerate(outputs):
            if i in (0, 2):  # where others have written after it, there are zeros
                assert isinstance(output.error, StorageIOError | StoreDamagedError)
                assert str(path) in str(output.error)
            else:
                assert (output.error, output.outputs) == (None, undisturbed[i])
        os.truncate(path, *n_bytes)
        assert [output.outputs for output in llm.generate(PROMPTS, PARAMS)] == undisturbed


@pytest.mark.parametrize("kind", ["eio", pytest.param("enospc", marks=pytest.mark.slow)])
def test_writes_that_fail_for_a_while_cost_no_answer(open_llm, undisturbed, kind):
    # a full device takes a row for each failure that is seen: at most five of seven
    with (
        open_llm(f"write:{kind}:after=20:times=5", max_num_seqs=7) as (llm, _),
        pytest.warns(RuntimeWarning, match=r"write of .* at offset \d+ of .*; going on"),
    ):
        assert [output.outputs for output in llm.generate(PROMPTS, PARAMS)] == undisturbed


def test_a_full_device_ends_the_run_when_not_even_one_row_goes_on(open_llm):
    with (
        open_llm("write:enospc:after=20:times=1000000") as (llm, _),
        pytest.raises(StoreFullError, match="No space left"),
    ):
        llm.generate(PROMPTS, PARAMS)


# ---- a job --------------------------------------------------------------------------------------


class Disturbed:
    """An engine to which something happens when a row is free for the seventh request."""

    def __init__(self, llm: LLM, event: Callable[[], None]):
        self.prepare, self.chat_prompt = llm.prepare, llm.chat_prompt
        self.tools = llm.tools
        self._llm, self._event = llm, event

    def stream(self, requests):
        return self._llm.stream(self._watched(requests))

    def _watched(self, requests):
        for i, request in enumerate(requests):
            if i == 6:
                self._event()
            yield request


def test_a_job_writes_each_result_once(open_llm, undisturbed, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    with source.open("w") as file:
        for i, (prompt, params) in enumerate(zip(PROMPTS, PARAMS, strict=True)):
            body = {"prompt": prompt, "temperature": 0, "max_tokens": params.max_tokens}
            line = {"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}
            file.write(json.dumps(line) + "\n")
    with (
        open_llm() as (llm, store),
        BatchJob(str(source), str(output), model="tiny") as job,
    ):
        progress = job.run(Disturbed(llm, lambda: damage(store)))
    assert (progress.answered, progress.refused) == (6, 1)
    results = {}
    for line in output.read_text().splitlines():
        result = json.loads(line)
        assert result["custom_id"] not in results
        results[result["custom_id"]] = result
    lost = results.pop("0")
    assert lost["response"]["status_code"] == 500
    assert lost["error"]["code"] == "storage_error"
    assert f"offset {FIRST_TILE} of" in lost["error"]["message"]
    for custom_id, result in results.items():
        (choice,) = result["response"]["body"]["choices"]
        assert tuple(choice["token_ids"]) == undisturbed[int(custom_id)][0].token_ids
    # the error line is a result too: the job can be resumed, and has nothing to do
    with BatchJob(str(source), str(output), model="tiny", resume=True) as job:
        assert job.progress().refused == 1


# ---- the parts ----------------------------------------------------------------------------------


def test_the_verdict():
    one, other = StoreDamagedError("at 1"), StoreDamagedError("at 2")
    assert judge({}, 4, set()) == Verdict({}, ())
    assert judge({2: one}, 4, set()) == Verdict({2: one}, ())
    assert judge({2: one}, 1, set()) == Verdict({2: one}, ())
    assert judge({0: one, 1: other, 2: one}, 3, set()) == Verdict({1: other}, (0, 2))
    assert judge({0: one, 1: other}, 2, {1}) == Verdict({0: one}, (1,))
    assert judge({0: one, 1: other}, 2, set()) is None


def test_the_cache_as_the_engine_has_it(tmp_path):
    with nspjax.Store(tmp_path, host_memory="64MiB", pinned="0") as store:
        values = np.random.default_rng(0).normal(size=(2, 40, 1, 8)).astype(np.float32)
        in_memory = KVCache(values, -values, np.array([40, 3], np.int32))  # pyright: ignore
        old = store.put(in_memory)
        store.fill_synthetic(old, 5)  # its result is lost
        now = store.current(old)
        np.testing.assert_array_equal(now.lengths, [5, 5])
        assert store.fetch(now).k.shape == (2, 40, 1, 8)
        kept = store.put(in_memory)
        store.check_row(kept, 0)
        with (
            nspjax.Store("memory:", host_memory="64MiB") as other,
            pytest.raises(InvalidArgumentError, match="another Store"),
        ):
            other.current(kept)


def test_a_row_is_checked_to_its_end(tmp_path):
    with nspjax.Store(tmp_path, host_memory="64MiB", pinned="0") as store:
        shape = {"batch": 2, "capacity_tokens": 6000, "n_kv_heads": 1, "head_dim": 8}
        cache = store.fill_synthetic(store.kv_cache(**shape, interval_tokens=1024), 6000)
        store.flush()
        path = Path(store.devices()[0].path)
        damage(store, FIRST_TILE + 4 * 1024 * 32)  # beyond what is read at once
        with pytest.raises(StoreDamagedError, match=str(path)):
            store.check_row(cache, 0)
        store.check_row(cache, 1)
