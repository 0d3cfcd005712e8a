"""An answer does not depend on what runs beside it, where, or when: compared bit by bit."""

import random
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_decoder import TinyDecoder

import nspjax
from nspjax.generate import LLM, SamplingParams

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
