import dataclasses

import pytest

from nspjax.errors import RequestError
from nspjax.generate import SamplingParams


def test_the_defaults_are_vllms():
    assert dataclasses.asdict(SamplingParams()) == {
        "max_tokens": 16,
        "min_tokens": 0,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "logit_bias": {},
        "allowed_token_ids": None,
        "bad_words": (),
        "stop": (),
        "stop_token_ids": (),
        "include_stop_str_in_output": False,
        "ignore_eos": False,
        "seed": None,
        "n": 1,
        "logprobs": None,
        "prompt_logprobs": None,
        "truncate_prompt_tokens": None,
        "structured_outputs": None,
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
        ("n", 0, "an integer in [1, 128]"),
        ("n", 129, "an integer in [1, 128]"),
        ("min_tokens", -1, "an integer >= 0"),
        ("min_tokens", 17, "at most max_tokens, 16"),
        ("presence_penalty", 2.5, "in [-2, 2]"),
        ("frequency_penalty", float("nan"), "in [-2, 2]"),
        ("repetition_penalty", 0, "a number > 0"),
        ("logit_bias", ["x"], "map token ids to numbers"),
        ("logit_bias", {"x": 1}, "each token of logit_bias must be an integer"),
        ("logit_bias", {"5": 100.5}, "logit_bias[5] must be a number in [-100, 100]"),
        ("allowed_token_ids", [], "name one token at least"),
        ("allowed_token_ids", [0.5], "an integer >= 0"),
        ("bad_words", [""], "a non-empty text"),
        ("logprobs", 21, "an integer in [0, 20]"),
        ("logprobs", True, "an integer in [0, 20]"),
        ("prompt_logprobs", -1, "an integer in [0, 20]"),
        ("truncate_prompt_tokens", 0, "an integer >= 1"),
        ("include_stop_str_in_output", 1, "true or false"),
    ],
)
def test_an_error_names_the_field_the_value_and_the_range(field, value, allowed):
    with pytest.raises(RequestError) as error:
        SamplingParams(**{field: value})
    assert error.value.param == field
    for part in (field, _shown(value), allowed):
        assert part in str(error.value)


def _shown(value):
    """What a message has of it: of a list or a mapping, the last thing."""
    if isinstance(value, dict):
        value = [part for pair in value.items() for part in pair if not isinstance(part, int)]
    if isinstance(value, list):
        return repr(value[-1]) if value else ""
    return repr(value)


def test_a_bias_may_name_its_tokens_as_json_does():
    params = SamplingParams(logit_bias={"7": -100, 8: 1})
    assert params.logit_bias == {7: -100.0, 8: 1.0}
    assert len({params, dataclasses.replace(params)}) == 1


def test_a_tiny_temperature_is_greedy():
    assert SamplingParams(temperature=1e-6).greedy
    assert not SamplingParams(temperature=0.01).greedy
