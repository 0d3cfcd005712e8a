"""Speculation by n-gram lookup: the same answers, in fewer steps."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_decoder import ScriptedDecoder, TinyConfig, TinyDecoder, greedy_by_hand

from nspjax import LLM, SamplingParams, Store
from nspjax.errors import InvalidArgumentError, NotFiniteError
from nspjax.generate.speculation.lookup import propose
from nspjax.generate.speculation.settings import NgramSpeculation

NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3}
GREEDY = SamplingParams(max_tokens=40, temperature=0)
DRAW = np.random.default_rng(0)
# some that repeat themselves, and one that does not
PROMPTS = [
    [5, 6, 7, 8, 9] * 4,
    [1, 2, 3] * 5 + [1],
    DRAW.integers(0, 48, 30).tolist(),
    [4],
    DRAW.integers(0, 48, 9).tolist() * 3,
]


# ---- what is proposed ---------------------------------------------------------------------------


def looked_up(tokens, k, most, least):
    """The same in plain Python: the longest match, and of those the last."""
    for n in range(min(most, len(tokens) - 1), least - 1, -1):
        for end in range(len(tokens) - 1, n - 1, -1):
            if tokens[end - n : end] == tokens[-n:]:
                return tokens[end : end + k]
    return []


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=24), min_size=3, max_size=3),
    k=st.integers(1, 6),
    lookup=st.sampled_from([(1, 1), (3, 1), (3, 2), (4, 4)]),
)
def test_proposals(tokens, k, lookup):
    history = np.full((3, 24), 2, np.int32)  # what lies behind means nothing
    for row, of_row in enumerate(tokens):
        history[row, : len(of_row)] = of_row
    length = jnp.array(list(map(len, tokens)), jnp.int32)
    drafts, counts = propose(jnp.asarray(history), length, NgramSpeculation(k, *lookup))
    got = [draft[:n] for draft, n in zip(drafts.tolist(), counts.tolist(), strict=True)]
    assert got == [looked_up(of_row, k, *lookup) for of_row in tokens]


def without_positions():
    """A decoder whose greedy answers soon go round in circles."""
    model = TinyDecoder()
    model.positions[...] = jnp.zeros_like(model.positions[...])
    return model


# ---- answers ------------------------------------------------------------------------------------


def answers(model, prompts, params=GREEDY, **options):
    with LLM(model, tokenizer=None, max_num_seqs=4, **options) as llm:
        outputs = llm.generate([{"prompt_token_ids": p} for p in prompts], params)
        return [out.outputs[0].token_ids for out in outputs], llm.stats()


def test_greedy_answers_do_not_change():
    model = without_positions()
    expected = greedy_by_hand(model, PROMPTS, 40)
    got, stats = answers(model, PROMPTS, speculative=NGRAM)
    assert [list(answer) for answer in got] == expected
    assert 0 < stats.accepted_draft_tokens <= stats.draft_tokens
    _, plain = answers(model, PROMPTS)
    assert stats.decode_steps < plain.decode_steps
    assert plain.draft_tokens == 0


@pytest.mark.parametrize(
    "pipeline",
    [
        None,
        pytest.param("ans+writeback", marks=pytest.mark.slow),
        pytest.param("hilos", marks=pytest.mark.slow),
    ],
)
def test_in_a_store(pipeline, tmp_path):
    model = without_positions()
    expected = greedy_by_hand(model, PROMPTS, 40)
    (tmp_path / "other").mkdir()
    with Store(tmp_path, tmp_path / "other", host_memory="8MiB", pinned="0") as store:
        got, stats = answers(model, PROMPTS, speculative=NGRAM, store=store, pipeline=pipeline)
    assert [list(answer) for answer in got] == expected
    assert stats.accepted_draft_tokens > 0


@pytest.mark.slow
@pytest.mark.parametrize("speculative", [None, NGRAM])
def test_where_rows_keep_x(speculative):
    """A real decoder, in memory and with X kept for half of its rows."""
    model = Path(__file__).parents[1] / "models" / "goldens" / "llama"
    prompts, options = PROMPTS[:2], {"dtype": "float32", "max_model_len": 64}
    expected, _ = answers(model, prompts, **options)
    with Store("memory:", host_memory="16MiB") as store:
        pipeline = "offload-kv,x-cache{fraction=0.5},split-attention,lower-to-ffi"
        options |= {"store": store, "pipeline": pipeline, "speculative": speculative}
        assert answers(model, prompts, **options)[0] == expected


def test_one_scan_for_all_that_is_verified(tmp_path):
    """A step with drafts reads what one without does: the row, once."""
    config = TinyConfig(max_position_tokens=2048, n_kv_heads=4, head_dim=64)
    prompt = [5, 6, 7, 8, 9] * 300
    read = {}
    for name, speculative in (("plain", None), ("ngram", NGRAM)):
        with Store(tmp_path, host_memory="8MiB", pinned="0") as store:
            params = SamplingParams(max_tokens=12, temperature=0)
            _, stats = answers(
                TinyDecoder(config), [prompt], params, store=store, speculative=speculative,
                interval_tokens=16,
            )  # fmt: skip
            read[name] = store.stats().bytes_read / stats.decode_steps
    row_bytes = 2 * 2 * 1500 * 4 * 64 * 4  # layers, K and V, tokens, heads, channels, bytes
    assert read["plain"] == pytest.approx(row_bytes, rel=0.05)
    assert read["ngram"] == pytest.approx(row_bytes, rel=0.05)


def test_rows_that_are_drawn_propose_nothing():
    """They are as without their neighbours, and the greedy ones as without them."""
    drawn = SamplingParams(max_tokens=20, temperature=1.0, seed=7)
    model, params = TinyDecoder(), [GREEDY, drawn, drawn]
    prompts = [PROMPTS[0], PROMPTS[1], PROMPTS[2]]
    got, stats = answers(model, prompts, params, speculative=NGRAM)
    for prompt, own, answer in zip(prompts, params, got, strict=True):
        assert answers(model, [prompt], own, speculative=NGRAM)[0] == [answer]
    assert list(got[0]) == greedy_by_hand(model, prompts[:1], 40)[0]
    alone = answers(model, prompts[1:], drawn, speculative=NGRAM)[1]
    assert stats.draft_tokens > 0
    assert alone.draft_tokens == 0


@pytest.mark.parametrize(
    "steps_per_call",
    [2, pytest.param(1, marks=pytest.mark.slow), pytest.param(32, marks=pytest.mark.slow)],
)
def test_a_stop_token_among_the_drafts(steps_per_call):
    """1 2 3 4 5 6 7 0 over and over; the answer ends with the first 6, or the first 3."""
    model = ScriptedDecoder([1, 2, 3, 4, 5, 6, 7, 0])
    prompt = list(range(8)) * 2
    options = {"speculative": NGRAM, "steps_per_call": steps_per_call}
    for stop, expected in ((6, (0, 1, 2, 3, 4, 5, 6)), (3, (0, 1, 2, 3)), (0, (0,))):
        params = SamplingParams(max_tokens=40, temperature=0, stop_token_ids=[stop])
        assert answers(model, [prompt], params, **options)[0] == [expected]
    for n in range(1, 12):  # nor does max_tokens let more through
        params = SamplingParams(max_tokens=n, temperature=0)
        got, stats = answers(model, [prompt], params, **options)
        assert got == [tuple(i % 8 for i in range(n))]
        assert stats.generated_tokens == n


ASKS_MORE = {
    "logprobs": {"logprobs": 2},
    "penalties": {"repetition_penalty": 1.3, "frequency_penalty": 0.5, "logprobs": 1},
    "allowed tokens and a bias": {"allowed_token_ids": [*range(1, 30)], "logit_bias": {3: 2.0}},
}


@pytest.mark.parametrize("what", ASKS_MORE)
def test_rows_that_ask_for_more(what):
    """Their answers and logprobs, and their neighbours' answers, are as without speculation."""
    model = without_positions()
    more = SamplingParams(max_tokens=24, temperature=0, **ASKS_MORE[what])
    params = [GREEDY, more, GREEDY, more, GREEDY]

    def both(**options):
        with LLM(model, tokenizer=None, max_num_seqs=4, **options) as llm:
            outputs = llm.generate([{"prompt_token_ids": p} for p in PROMPTS], params)
            return [out.outputs[0] for out in outputs], llm.stats()

    expected, _ = both()
    got, stats = both(speculative=NGRAM)
    assert stats.accepted_draft_tokens > 0
    for one, other in zip(expected, got, strict=True):
        assert one.token_ids == other.token_ids
        assert (one.logprobs is None) == (other.logprobs is None)
        for a, b in zip(one.logprobs or (), other.logprobs or (), strict=True):
            assert a.keys() == b.keys()
            for token in a:
                assert a[token].logprob == pytest.approx(b[token].logprob, abs=1e-4)


def test_the_context_ends_among_the_drafts():
    config = TinyConfig(vocab_size=8, n_layers=1, max_position_tokens=21)
    model = ScriptedDecoder([1, 2, 3, 4, 5, 6, 7, 0], config)
    params = SamplingParams(max_tokens=None, temperature=0)
    got, _ = answers(model, [list(range(8)) * 2], params, speculative=NGRAM)
    assert got == [(0, 1, 2, 3, 4)]


class NanAfter(ScriptedDecoder):
    """What follows token 4 is not finite."""

    def __call__(self, tokens, caches, **rows):
        hidden, caches = super().__call__(tokens, caches, **rows)
        return jnp.where((tokens == 4)[..., None], jnp.nan, hidden), caches


def test_logits_that_are_not_finite_among_the_drafts():
    model = NanAfter([1, 2, 3, 4, 5, 6, 7, 0])
    prompt = [0, 1, 2, 3, 5, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    with LLM(model, tokenizer=None, max_num_seqs=2, speculative=NGRAM) as llm:
        (out,) = llm.generate([{"prompt_token_ids": prompt}], GREEDY)
    assert isinstance(out.error, NotFiniteError)
    assert "3 tokens of the answer" in str(out.error)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ngram", "must be a mapping with the method 'ngram'"),
        ({"num_speculative_tokens": 3}, "must be a mapping with the method 'ngram'"),
        ({"method": "eagle", "num_speculative_tokens": 3}, "the only one there is: .*'eagle'"),
        ({"method": "ngram"}, "needs num_speculative_tokens"),
        ({"method": "ngram", "num_speculative_tokens": 0}, r"in \[1, 32\], got 0"),
        ({"method": "ngram", "num_speculative_tokens": 3, "model": "x"}, "no setting 'model'"),
        (NGRAM | {"prompt_lookup_min": 4}, r"prompt_lookup_min must be an integer in \[1, 3\]"),
        (NGRAM | {"prompt_lookup_max": True}, r"prompt_lookup_max must be an integer in \[1, 32\]"),
    ],
)
def test_what_cannot_be_asked(given, message):
    with pytest.raises(InvalidArgumentError, match=message):
        LLM(ScriptedDecoder([0]), tokenizer=None, speculative=given)
