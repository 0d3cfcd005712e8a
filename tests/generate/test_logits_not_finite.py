"""Logits that are not finite cost the request that has them, and no other."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_decoder import ScriptedDecoder, TinyConfig, TinyDecoder, greedy_by_hand

import nspjax
from nspjax.errors import NotFiniteError
from nspjax.generate import LLM, SamplingParams
from nspjax.generate.sampling.choice import NOT_FINITE, Asked, choose

HUGE = 7  # the token whose numbers overflow
GREEDY = SamplingParams(temperature=0, max_tokens=12)
SEEDED = SamplingParams(temperature=1.0, top_k=2, seed=5, max_tokens=12)


class OverflowingDecoder(TinyDecoder):
    """Finite weights. Token HUGE overflows in the first layer, and leaves NaN in the second's KV
    cache: for good, as every later token of the row sees it."""

    def __init__(self, **options):
        super().__init__(TinyConfig(), **options)
        self.embedding[...] = self.embedding[...].at[HUGE].set(jnp.finfo(self.dtype).max)


class OverflowsInTheLoop(ScriptedDecoder):
    """Counts upwards; the logits after the token 20 are inf where they are not 0."""

    def __init__(self):
        super().__init__([*range(1, 64), 0], TinyConfig(vocab_size=64, n_layers=1))

    def __call__(self, tokens, caches, **options):
        hidden, caches = super().__call__(tokens, caches, **options)
        return jnp.where((tokens == 20)[..., None], 3e38 * hidden, hidden), caches


PROMPTS = [[3, 1, 4], [2, HUGE, 8], [5, 9, 2, 6], [1] * 40 + [HUGE] + [1] * 40, [11, 12]]
FAIL = [1, 3]  # the second is prefilled in pieces


@pytest.fixture(scope="module", params=["in memory", "memory:"])
def store(request):
    if request.param == "in memory":
        yield None
        return
    with nspjax.Store(request.param, host_memory="64MiB") as store:
        yield store


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_only_the_request_fails_and_its_row_serves_the_next(store, dtype):
    model = OverflowingDecoder(dtype=jnp.dtype(dtype))
    # two rows: those that failed are used again, by shorter and by longer prompts
    with LLM(model, store=store, max_num_seqs=2, prefill_budget_tokens=32) as llm:
        outputs = llm.generate(PROMPTS * 2, GREEDY)
        for i, output in enumerate(outputs):
            assert (output.error is not None) == (i % len(PROMPTS) in FAIL)
            assert len(output.outputs) == (output.error is None)
        error = outputs[3].error
        assert isinstance(error, NotFiniteError)
        assert "not finite after a prompt of 81 tokens and 0 tokens of the answer" in str(error)
        good = [i for i in range(len(PROMPTS)) if i not in FAIL]
        answers = [list(outputs[i].outputs[0].token_ids) for i in good]
        assert answers == [list(outputs[i + len(PROMPTS)].outputs[0].token_ids) for i in good]
    if dtype == "float32":
        assert answers == greedy_by_hand(model, [PROMPTS[i] for i in good], 12)


@pytest.mark.parametrize("params", [GREEDY, SEEDED], ids=["greedy", "sampled"])
def test_a_row_that_overflows_within_a_compiled_loop_delivers_nothing(store, params):
    with LLM(OverflowsInTheLoop(), store=store, max_num_seqs=3, steps_per_call=32) as llm:
        early, late, never = llm.generate([[15], [11], [40]], params)
        assert [early.outputs, late.outputs] == [(), ()]
        assert "5 tokens of the answer" in str(early.error)
        assert "9 tokens of the answer" in str(late.error)
        assert never.outputs[0].token_ids == tuple(range(41, 53))
        assert llm.stats().generated_tokens == 5 + 9 + 12


def test_one_of_several_choices_is_enough_to_fail_the_request():
    with LLM(OverflowsInTheLoop(), max_num_seqs=4) as llm:
        failed, served = llm.generate(
            [[12], [30]], SamplingParams(n=3, temperature=1.0, seed=1, max_tokens=12)
        )
        assert isinstance(failed.error, NotFiniteError)
        assert failed.outputs == ()
        assert served.error is None
        assert len(served.outputs) == 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 17, 1023, 1030])
def test_one_number_anywhere_is_seen_and_stays_with_its_row(value, at):
    from test_sampler import settings_of

    draw = np.random.default_rng(0).normal(size=(4, 1031)).astype(np.float32)
    rows = settings_of(4, temperature=[0.0, 0.7, 0.0, 1.3], top_p=[1, 0.9, 1, 1], seed=range(4))
    index = jnp.zeros(4, jnp.int32)
    asked = Asked(rows, None)
    whole = np.asarray(choose(jnp.asarray(draw), asked, index)[0])
    draw[0, at] = draw[1, at] = value
    tokens = np.asarray(choose(jnp.asarray(draw), asked, index)[0])
    assert tokens.tolist() == [NOT_FINITE, NOT_FINITE, *whole[2:]]
