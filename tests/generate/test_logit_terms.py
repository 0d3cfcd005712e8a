"""Penalties, biases and barred tokens, against NumPy's float64 by vLLM's formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from byte_tokenizer import byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from logits_by_hand import ALIKE, END, OPTIONS, PlainModel, bytes_decoder, with_terms
from tokenizer_forms import unigram

from nspjax.errors import RequestError
from nspjax.generate import LLM, SamplingParams
from nspjax.generate.answer import Answer
from nspjax.generate.asked_rows import asked_rows
from nspjax.generate.sampling import logit_terms
from nspjax.generate.sampling.bad_words import bad_word_tokens
from nspjax.generate.sampling.request_terms import RequestTerms

VOCABULARY = 45  # not a multiple of 32
ENDS = (7, 44)
compiled = jax.jit(logit_terms.with_terms)

tokens = st.integers(0, VOCABULARY - 1)
penalties = st.floats(-2, 2, width=16)
every_param = st.builds(
    SamplingParams,
    presence_penalty=penalties,
    frequency_penalty=penalties,
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.25, 2.0]),
    logit_bias=st.dictionaries(tokens, st.floats(-100, 100, width=16), max_size=3),
    allowed_token_ids=st.none() | st.lists(tokens, min_size=1, max_size=30),
    min_tokens=st.integers(0, 4),
)


@given(st.lists(st.tuples(every_param, st.lists(tokens, max_size=6)), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_all_terms_in_all_combinations(rows):
    answers, logits = {}, np.random.default_rng(0).normal(size=(3, VOCABULARY)).astype(np.float32)
    prompt = [3, 44, 3, 12]
    for row, (params, said) in enumerate(rows):
        terms = RequestTerms.of(params, prompt, VOCABULARY, ends=ENDS, barred=[2])
        answers[row] = Answer(
            prompt,
            params,
            index=0,
            seed=0,
            max_tokens=9,
            end_tokens=(),
            tokenizer=None,
            terms=terms,
        )
        answers[row].token_ids = said
    generated = jnp.array([len(said) for _, said in rows] + [0] * (3 - len(rows)), jnp.int32)
    asked = asked_rows(answers, 3, VOCABULARY)
    found = np.asarray(compiled(logits, asked.more.terms, generated))
    for row, (params, said) in enumerate(rows):
        right = with_terms(logits[row], prompt, said, params, ENDS, bad_words=[[2]])
        np.testing.assert_allclose(found[row], right, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found[len(rows) :], logits[len(rows) :])


def test_terms_that_change_nothing_change_no_bit():
    logits = np.random.default_rng(1).normal(size=(2, VOCABULARY)).astype(np.float32)
    logits[0, :3] = [-0.0, 2e-38, -3e38]
    params = SamplingParams(**ALIKE)
    terms = RequestTerms.of(params, [1], VOCABULARY, ends=())
    answer = Answer(
        [1], params, index=0, seed=0, max_tokens=9, end_tokens=(), tokenizer=None, terms=terms
    )
    answer.token_ids = [3, 4, 4]
    asked = asked_rows({0: answer}, 2, VOCABULARY)
    found = np.asarray(compiled(logits, asked.more.terms, jnp.array([3, 0])))
    np.testing.assert_array_equal(found.view(np.int32), logits.view(np.int32))


# ---- through the compiled loop ------------------------------------------------------------------

PROMPT = [*b"hello, world"]


@pytest.fixture(scope="module")
def model():
    return bytes_decoder()


@pytest.fixture(scope="module")
def plain(model):
    return PlainModel(model)


@pytest.fixture(scope="module")
def llm(model):
    with LLM(model, tokenizer=byte_tokenizer(), **OPTIONS) as made:
        yield made


def answers(llm, *params):
    outputs = llm.generate([PROMPT] * len(params), list(params))
    return [list(output.outputs[0].token_ids) for output in outputs]


def greedy(**settings) -> SamplingParams:
    return SamplingParams(**{"temperature": 0, "max_tokens": 24, **ALIKE, **settings})


def test_each_term_steers_the_answer_as_by_vllms_formulas(llm, plain):
    usual = plain.greedy(PROMPT, greedy())
    said, often = usual[3], max(usual, key=usual.count)
    asked = [
        greedy(presence_penalty=1.5),
        greedy(frequency_penalty=0.4),
        greedy(frequency_penalty=-2.0, presence_penalty=2.0),
        greedy(repetition_penalty=1.3),
        greedy(repetition_penalty=0.5),
        greedy(logit_bias={said: -100}),
        greedy(logit_bias={str(9): 2.5, 11: -1, 12: 2.4}),
        greedy(allowed_token_ids=[*range(40, 90), said]),
        greedy(
            presence_penalty=0.3, frequency_penalty=0.2, repetition_penalty=1.2,
            logit_bias={often: 1.5}, allowed_token_ids=[*range(0, 258, 2), often],
        ),
    ]  # fmt: skip
    right = [plain.greedy(PROMPT, params) for params in asked]
    assert answers(llm, *asked, greedy()) == [*right, usual]
    assert all(answer != usual for answer in right)


def test_min_tokens_bars_what_would_end_the_answer(llm, plain):
    stop = plain.greedy(PROMPT, greedy())[2]
    for least in (0, 1, 3, 9):
        params = greedy(min_tokens=least, stop_token_ids=[stop])
        right = plain.greedy(PROMPT, params, ends=(END, stop))
        assert answers(llm, params) == [right]
        assert len(right) > least or right[-1] not in (END, stop)


def test_bad_words_of_one_token_and_of_several(llm, plain):
    # letters only, so that each is as many tokens with a space before it as it has letters
    params = greedy(allowed_token_ids=[*range(ord("a"), ord("z") + 1)])
    usual = plain.greedy(PROMPT, params)
    texts = [bytes(usual[at : at + n]).decode() for at, n in ((4, 1), (8, 2), (1, 3))]
    asked = [
        dataclasses.replace(params, bad_words=words)
        for words in (*([text] for text in texts), texts)
    ]
    right = [
        plain.greedy(PROMPT, each, bad_words=[[*text.encode()] for text in each.bad_words])
        for each in asked
    ]
    assert all(answer != usual for answer in right)
    assert answers(llm, *asked, params) == [*right, usual]


def test_bad_words_are_barred_with_and_without_a_space_before_them():
    assert bad_word_tokens(byte_tokenizer(), ["ab"]) == [(97, 98)]  # with a space it is longer
    tokenizer = unigram()
    found = bad_word_tokens(tokenizer, ["x"])
    assert found == [tuple(tokenizer.encode("x", add_special_tokens=False))]
    with pytest.raises(RequestError, match="bad_words holds ' ', which has no token") as error:
        bad_word_tokens(byte_tokenizer(), [" "])
    assert error.value.param == "bad_words"


def test_what_leaves_no_token_is_the_requests_error(llm):
    failed, served = llm.generate(
        [PROMPT, PROMPT], [greedy(allowed_token_ids=[END], min_tokens=2), greedy()]
    )
    assert "no token may come after 0 tokens of the answer" in str(failed.error)
    assert served.error is None


@pytest.mark.parametrize("field", ["logit_bias", "allowed_token_ids", "stop_token_ids"])
def test_a_token_that_the_model_does_not_have_is_refused(llm, field):
    value = {258: 1.0} if field == "logit_bias" else [258]
    with pytest.raises(RequestError, match=f"{field} holds 258") as error:
        llm.generate(PROMPT, SamplingParams(**{field: value}))
    assert error.value.__cause__.param == field
