"""An answer does not depend on what runs beside it, where, or when: compared bit by bit."""

import contextlib
import random
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_decoder import TinyDecoder

import nspjax
from nspjax.generate import LLM, SamplingParams
from nspjax.generate.answer import Answer
from nspjax.generate.model_steps import decode
from nspjax.generate.operands import decode_rows
from nspjax.generate.sampling.request_terms import RequestTerms

N_ROWS = 16
GREEDY = SamplingParams(temperature=0, max_tokens=24)
SEEDED = SamplingParams(temperature=1.0, top_p=0.9, seed=3, max_tokens=24)
# in one bucket with others beside it, and prefilled in two pieces
OURS = [random.Random(n).choices(range(48), k=n) for n in (20, 90)]

PLACES = ["in memory", "memory:", "file"]
DTYPES = ["float32", "bfloat16"]


@pytest.fixture(scope="module", params=[(p, d) for p in PLACES for d in DTYPES], ids=" ".join)
def llm_and_store(request, tmp_path_factory):
    """An LLM of some dtype and the store of its KV cache, None where that is JAX's memory."""
    place, dtype = request.param
    if place == "in memory":
        with make_llm(None, dtype) as llm:
            yield llm, None
        return
    device = "memory:" if place == "memory:" else str(tmp_path_factory.mktemp("store"))
    with RememberingStore(device, host_memory="64MiB") as store, make_llm(store, dtype) as llm:
        yield llm, store


class RememberingStore(nspjax.Store):
    """Knows the caches that were made of it."""

    def kv_caches(self, *args, **options):
        self.made = super().kv_caches(*args, **options)
        return self.made


class ShowingDecoder(TinyDecoder):
    """Shows, at each decode step, what its last cache in memory holds: keys and lengths."""

    shown: ClassVar[list[np.ndarray]] = []

    def __call__(self, tokens, caches, **options):
        hidden, caches = super().__call__(tokens, caches, **options)
        if tokens.shape[1] == 1:

            def show(*arrays):
                self.shown[:] = map(np.asarray, arrays)
                return np.float32(0)

            nothing = jax.ShapeDtypeStruct((), jnp.float32)
            zero = jax.pure_callback(show, nothing, caches[-1].k, caches[-1].lengths)
            hidden += zero.astype(hidden.dtype)
        return hidden, caches


def make_llm(store, dtype) -> LLM:
    decoder = ShowingDecoder if store is None else TinyDecoder
    return LLM(
        decoder(dtype=jnp.dtype(dtype)),
        store=store,
        max_num_seqs=N_ROWS,
        prefill_budget_tokens=64,
        steps_per_call=8,
    )


def crowd(seed: int, n_prompts: int) -> list[tuple[list[int], SamplingParams]]:
    """Other prompts, of several lengths and settings."""
    draw = random.Random(seed)
    return [
        (
            draw.choices(range(48), k=draw.choice([17, 20, 32, 40, 60, 90])),
            SamplingParams(
                temperature=draw.choice([0.0, 1.0]),
                top_k=draw.choice([0, 5]),
                max_tokens=draw.choice([1, 5, 30]),
                seed=i,
            ),
        )
        for i in range(n_prompts)
    ]


def generate(llm, requests):
    return [output.outputs for output in llm.generate(*map(list, zip(*requests, strict=True)))]


def stored_keys(store, row):
    """What the last layer's cache holds in a row, [T, Hkv, D]: every bit of the row's past."""
    if store is None:
        k, lengths = ShowingDecoder.shown
    else:
        cache = store.fetch(store.current(store.made[-1]))
        k, lengths = cache.k, cache.lengths
    return np.asarray(k[row, : lengths[row]].astype(np.float32))


def test_an_answer_is_the_same_alone_in_a_crowd_and_in_another_row(llm_and_store):
    llm, _ = llm_and_store
    cases = [(prompt, params) for prompt in OURS for params in (GREEDY, SEEDED)]
    # nothing has run in this LLM before: so it is after a resume as well
    alone = [generate(llm, [case])[0] for case in cases]
    for first in (0, 9, 30):  # 30: in rows that others have used
        others = crowd(first, 40)
        together = generate(llm, others[:first] + cases + others[first:])
        assert together[first : first + len(cases)] == alone


def test_the_bits_of_a_row_are_the_same_alone_and_in_a_crowd(llm_and_store):
    # sharper than tokens, which only change where two of them are almost equally likely
    llm, store = llm_and_store
    ours = (OURS[1], SamplingParams(temperature=0, max_tokens=38))
    generate(llm, [ours])
    alone = stored_keys(store, 0)
    assert alone.shape == (90 + 38 - 1, 2, 8)
    for row in (0, 9):
        others = crowd(row, N_ROWS - 1)
        generate(llm, [*others[:row], ours, *others[row:]])
        np.testing.assert_array_equal(stored_keys(store, row), alone)


@pytest.mark.parametrize(("n_rows", "dtype"), [(1, "float32"), (3, "bfloat16")])
def test_programs_for_rows_that_ask_for_more_have_the_same_logits(monkeypatch, n_rows, dtype):
    """To the last bit: the token is made a fingerprint of all logits from which it is chosen."""

    def fingerprint(logits, *_):
        bits = jax.lax.bitcast_convert_type(logits, jnp.int32)
        return jax.lax.reduce(bits, jnp.int32(0), jax.lax.bitwise_xor, (1,)) & jnp.int32(2**31 - 1)

    monkeypatch.setattr("nspjax.generate.sampling.choice.sample", fingerprint)
    model = TinyDecoder(dtype=jnp.dtype(dtype))

    @jax.jit
    def step(batch):
        return decode(model, model.init_caches(n_rows, 32), batch, max_steps=1)[1]

    found = []
    # the last changes too little to change a number
    for asked in ({}, {"logprobs": 1}, {"frequency_penalty": 1e-30, "logprobs": 0}):
        running = {}
        for row in range(n_rows):
            params = SamplingParams(**(asked if row == 0 else {}))
            terms = RequestTerms.of(params, OURS[0], 48, ends=())
            running[row] = Answer(
                OURS[0], params, index=0, seed=0, max_tokens=9, end_tokens=(), tokenizer=None,
                terms=terms,
            )  # fmt: skip
            running[row].token_ids = [7 + row]
        batch = decode_rows(running, n_rows, leave_at=n_rows + 1, n_steps=1, vocab_size=48)
        assert (batch.asked.more is None) == (not asked)
        found.append(step(batch).tolist())
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
@pytest.mark.parametrize("place", ["in memory", "memory:"])
def test_neighbours_that_ask_for_more_change_no_token(place):
    ours = [(OURS[0], GREEDY), (OURS[0], SEEDED), (OURS[1], SEEDED)]
    draw = random.Random(1)
    asking = [
        (
            draw.choices(range(48), k=draw.choice([9, 20, 90])),
            SamplingParams(
                seed=i,
                max_tokens=draw.choice([3, 20]),
                temperature=draw.choice([0.0, 1.0]),
                presence_penalty=draw.choice([0.0, 0.5]),
                logit_bias=draw.choice([None, {3: 1.0}]),
                logprobs=draw.choice([None, 2]),
                prompt_logprobs=draw.choice([None, 1]),
            ),
        )
        for i in range(9)
    ]
    store = None if place == "in memory" else nspjax.Store(place, host_memory="64MiB")
    with store or contextlib.nullcontext(), make_llm(store, "bfloat16") as llm:
        alone = generate(llm, ours)
        for at in (0, 4):
            assert generate(llm, asking[:at] + ours + asking[at:])[at : at + 3] == alone
