import dataclasses

import pytest

from nspjax.errors import RequestError
from nspjax.generate import SamplingParams


def test_the_defaults_are_vllms():
    assert dataclasses.asdict(SamplingParams()) == {
        "max_tokens": 16,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "stop": (),
        "stop_token_ids": (),
        "ignore_eos": False,
        "seed": None,
        "n": 1,
    }


def test_stop_may_be_one_text_or_several():
    assert SamplingParams(stop="end").stop_texts == ("end",)
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")
    assert SamplingParams(stop_token_ids=[3, 4]).stop_token_ids == (3, 4)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("max_tokens", 0, "an integer >= 1"),
        ("max_tokens", 2.5, "an integer >= 1"),
        ("max_tokens", True, "an integer >= 1"),
        ("temperature", -0.1, "a number >= 0"),
        ("temperature", float("nan"), "a number >= 0"),
        ("temperature", "warm", "a number >= 0"),
        pytest.param("temperature", 10**400, "a number >= 0", id="temperature-beyond floats"),
        ("top_k", -2, "an integer >= -1"),
        ("top_p", 0.0, "in (0, 1]"),
        ("top_p", 1.01, "in (0, 1]"),
        ("min_p", 1.5, "in [0, 1]"),
        pytest.param("min_p", 10**400, "in [0, 1]", id="min_p-beyond floats"),
        ("stop", "", "a non-empty text"),
        ("stop", ["a", 3], "a non-empty text"),
        ("stop_token_ids", [-1], "an integer >= 0"),
        ("stop_token_ids", 7, "a list of token ids"),
        ("ignore_eos", 1, "true or false"),
        ("seed", 2**63, "an integer in"),
        ("seed", 0.5, "an integer in"),
        ("n", 0, "an integer in [1, 64]"),
        ("n", 65, "an integer in [1, 64]"),
    ],
)
def test_an_error_names_the_field_the_value_and_the_range(field, value, allowed):
    with pytest.raises(RequestError) as error:
        SamplingParams(**{field: value})
    for part in (field, repr(value if not isinstance(value, list) else value[-1]), allowed):
        assert part in str(error.value)


def test_several_greedy_answers_are_refused():
    with pytest.raises(RequestError, match="n must be 1 with temperature 0"):
        SamplingParams(temperature=0, n=2)


def test_a_tiny_temperature_is_greedy():
    assert SamplingParams(temperature=1e-6).greedy
    assert not SamplingParams(temperature=0.01).greedy
