"""Tokens that the host allows one by one: against a plain loop, and beside rows that have none."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from logits_by_hand import ALIKE, PlainModel, bytes_decoder, llm_in

from nspjax.errors import RequestError
from nspjax.generate import SamplingParams
from nspjax.generate.answer import Answer
from nspjax.generate.request_reader import RequestReader
from nspjax.generate.sampling.logit_terms import unpacked
from nspjax.generate.sampling.request_terms import RequestTerms
from nspjax.generate.sampling.token_mask import AllOf, packed, packed_all

VOCABULARY = 258


@dataclasses.dataclass(frozen=True)
class MaskedParams(SamplingParams):
    masks: tuple[Callable, ...] = ()


class Multiples:
    """After n tokens, the multiples of n % 4 + 2; the answer ends with the token `last`."""

    def __init__(self, last: int = -1):
        self.tokens, self.last = [], last

    def allowed(self):
        return packed(range(0, VOCABULARY, len(self.tokens) % 4 + 2), VOCABULARY)

    def accept(self, token):
        self.tokens.append(token)

    @property
    def finished(self):
        return self.tokens[-1:] == [self.last]


class Fails(Multiples):
    """In its second token."""

    def allowed(self):
        if self.tokens:
            raise RequestError("the mask fails")
        return super().allowed()


class NothingAfterThree(Multiples):
    def allowed(self):
        return super().allowed() if len(self.tokens) < 3 else packed([], VOCABULARY)


@pytest.fixture(autouse=True)
def _masks_of_params(monkeypatch):
    monkeypatch.setattr(
        RequestReader, "_mask_makers", lambda _, params, ends: getattr(params, "masks", [])
    )


@pytest.fixture(scope="module")
def model():
    return bytes_decoder()


@pytest.fixture(
    scope="module", params=["in memory", pytest.param("memory:", marks=pytest.mark.slow)]
)
def llm(model, request):
    with llm_in(request.param, model) as made:
        yield made


PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6] * 5, [7] * 11]


def masked(**settings):
    return MaskedParams(**{"max_tokens": 9, "ignore_eos": True, **ALIKE, **settings})


def masked_by_hand(plain, prompt, n_tokens):
    """Greedy, from the largest of the logits that are multiples."""
    answer = []
    while len(answer) < n_tokens:
        every = len(answer) % 4 + 2
        answer.append(int(plain.logits([*prompt, *answer])[-1][::every].argmax()) * every)
    return answer


def test_answers_are_those_of_the_plainest_loop(model, llm):
    plain = PlainModel(model)
    outputs = llm.generate(PROMPTS, masked(temperature=0, masks=(Multiples,)))
    answers = [list(output.outputs[0].token_ids) for output in outputs]
    assert answers == [masked_by_hand(plain, prompt, 9) for prompt in PROMPTS]


@pytest.mark.slow
def test_rows_without_a_mask_answer_as_without_such_neighbours(llm):
    plain = [
        SamplingParams(temperature=0, max_tokens=20),
        SamplingParams(temperature=1.0, top_p=0.95, seed=3, max_tokens=20),
    ]
    alone = [llm.generate([PROMPTS[0]], params)[0].outputs for params in plain]
    asking = masked(temperature=1.0, seed=1, max_tokens=11, masks=(Multiples,))
    beside = llm.generate([PROMPTS[1], PROMPTS[0], PROMPTS[0]], [asking, *plain])
    assert [output.outputs for output in beside[1:]] == alone
    assert all(token % (i % 4 + 2) == 0 for i, token in enumerate(beside[0].outputs[0].token_ids))


def test_an_answer_ends_where_its_mask_says(llm):
    params = masked(temperature=0, masks=(Multiples,))
    whole = llm.generate(PROMPTS[:1], params)[0].outputs[0].token_ids
    ending = dataclasses.replace(params, masks=(lambda: Multiples(whole[4]),))
    (answer,) = llm.generate(PROMPTS[:1], ending)[0].outputs
    assert answer.token_ids == whole[: whole.index(whole[4]) + 1]
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize(
    ("mask", "message"),
    [(Fails, "the mask fails"), (NothingAfterThree, "no token may come after 3 tokens")],
)
def test_what_a_mask_refuses_is_its_requests_error(llm, mask, message):
    good = masked(temperature=0, max_tokens=12)
    (alone,) = llm.generate(PROMPTS[:1], good)
    params = [good, masked(temperature=0, max_tokens=12, masks=(mask,))]
    served, failed = llm.generate(PROMPTS[:2], params)
    assert served.outputs == alone.outputs
    assert isinstance(failed.error, RequestError)
    assert message in str(failed.error)


def test_each_choice_has_a_mask_of_its_own(llm):
    params = masked(temperature=1.0, seed=2, n=3, max_tokens=6, masks=(Multiples, Multiples))
    for answer in llm.generate(PROMPTS[:1], params)[0].outputs:
        assert all(token % (i % 4 + 2) == 0 for i, token in enumerate(answer.token_ids))


def test_an_answer_that_starts_over_has_a_new_mask():
    terms = RequestTerms(new_mask=Multiples)
    answer = Answer(
        [1], SamplingParams(), index=0, seed=0, max_tokens=9, end_tokens=(), tokenizer=None,
        terms=terms,
    )  # fmt: skip
    first = answer.allowed()
    answer.accept(4)
    assert not np.array_equal(answer.allowed(), first)
    answer.restart()
    np.testing.assert_array_equal(answer.allowed(), first)


@given(st.sets(st.integers(0, 99)), st.sets(st.integers(0, 99)))
@settings(max_examples=30, deadline=None)
def test_a_set_is_bits_as_llguidance_has_them(one, other):
    class Only:
        def __init__(self, tokens):
            self.tokens = tokens

        def allowed(self):
            return packed(self.tokens, 100)

    words = AllOf([Only(one), Only(other)]).allowed()
    assert words.shape == packed_all(100).shape == (4,)
    assert {t for t in range(100) if words[t // 32] >> np.uint32(t % 32) & 1} == one & other
    assert set(np.flatnonzero(unpacked(jnp.asarray(words)[None], 100)[0])) == one & other
