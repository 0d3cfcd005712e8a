"""One line of a batch input: what is taken, and what each mistake is called."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nspjax.errors import BatchFileError
from nspjax.generate.batch.lines import parse_line

GOOD = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}


def test_a_good_line():
    line = parse_line(json.dumps(GOOD).encode())
    assert (line.custom_id, line.url, line.body) == ("a", "/v1/completions", {"prompt": "x"})


def test_the_digest_is_of_the_content():
    digest = parse_line(json.dumps(GOOD).encode()).digest
    reordered = json.dumps(dict(reversed(GOOD.items())), indent=None, separators=(" ,", ": "))
    changed = json.dumps(GOOD | {"body": {"prompt": "y"}})
    assert parse_line(reordered.encode()).digest == digest
    assert parse_line(changed.encode()).digest != digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"custom_id": "a"', "not JSON: Expecting ',' delimiter at column 18"),
        (b'{"a": NaN}', "not JSON: NaN is not a JSON value"),
        (b'{"a": -Infinity}', "not JSON: -Infinity is not a JSON value"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', 'the key "c" appears twice'),
        (b'{"a": "\xff"}', "not UTF-8: byte 0xff at column 8"),
        (b"[1, 2]", "must be a JSON object, got [1, 2]"),
        (b"[" * 100_000, "nested too deep"),
        (b"9" * 10_000, "not usable JSON"),
    ],
)
def test_what_is_no_json_object(text: bytes, message: str):
    with pytest.raises(BatchFileError) as error:
        parse_line(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"custom_id": ...}, 'no "custom_id"'),
        ({"custom_id": 7}, '"custom_id" must be a string, for example "request-1"; got 7'),
        ({"custom_id": ""}, '"custom_id" is empty'),
        ({"method": ...}, 'no "method"'),
        ({"method": "GET"}, '"method" must be "POST", got "GET"'),
        ({"method": None}, '"method" must be a string'),
        ({"url": ["/v1"]}, '"url" must be a string'),
        ({"body": "x"}, '"body" must be an object'),
        ({"body": {"prompt": "\ud800"}}, "surrogates not allowed"),
        ({"body": {"seed": 2**70}}, "64-bit"),
    ],
)
def test_what_is_no_request(change: dict, message: str):
    value = {key: part for key, part in (GOOD | change).items() if part is not ...}
    with pytest.raises(BatchFileError) as error:
        parse_line(json.dumps(value).encode())
    assert message in str(error.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(min_size=1), st.text(), st.dictionaries(st.text(), json_values, max_size=4))
def test_any_request_survives(custom_id: str, url: str, body: dict):
    value = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
    line = parse_line(json.dumps(value).encode())
    assert (line.custom_id, line.url, line.body) == (custom_id, url, body)


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_are_refused(text: bytes):
    with pytest.raises(BatchFileError):
        parse_line(text)
