"""One line of a batch input: what is taken, and what each mistake is called."""

import contextlib
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nspjax.errors import BatchFileError, RequestError
from nspjax.generate.batch.fields import parse_request
from nspjax.generate.batch.lines import BatchLine, parse_line

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


FIRST = b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": %s}}'
LAST = b'{"body": {"prompt": %s}, "url": "/v1/completions", "method": "POST", "custom_id": "a"}'


@pytest.mark.parametrize("place", [FIRST, LAST], ids=["after", "before"])
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"NaN", "not JSON: NaN is not a JSON value"),
        (b"[-Infinity]", "not JSON: -Infinity is not a JSON value"),
        (b'"x\\ud800"', "\\ud800 is half of a character"),
        (b'"\xed\xa0\x80"', "not UTF-8: byte 0xed"),
        (b'{"custom_id": "b", "c": 1, "c": 2}', 'the key "c" appears twice'),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deep"),
        (b"9" * 10_000, "Exceeds the limit"),
        (b'"\\"custom_id\\": \\"b\\"}" , "d": NaN', "NaN is not a JSON value"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_not_json_is_an_error_of_its_request(place: bytes, value: bytes, problem: str):
    line = parse_line(place % value)
    assert (line.custom_id, line.body) == ("a", {})
    assert line.problem is not None
    assert problem in line.problem
    assert line.digest != parse_line(place % (value + b" ")).digest
    with pytest.raises(RequestError, match=re.escape(line.problem)):
        parse_request(line, str, job_seed=0)


@pytest.mark.parametrize(
    "begin",
    [
        b'{"custom_id": "a", "custom_id": "b"',
        b'{"custom_id": "\\udfff"',
        b'{"custom_id": "\xff"',
        b'{"custom_id": ""',
        b'{"custom_id": 7',
        b'{"custom_id": {"custom_id": "a"}',
        b'{"x": {"custom_id": "a"}',
    ],
)
def test_without_a_custom_id_it_is_an_error_of_the_file(begin: bytes):
    with pytest.raises(BatchFileError, match=r"NaN is not a JSON value|not UTF-8"):
        parse_line(begin + b', "y": NaN}')


def test_numbers_of_any_size_are_json():
    for number in ("1e400", "1180591620717411303424", "-0", "5e-324"):
        line = parse_line(FIRST % number.encode())
        assert line.problem is None
        assert line.body == {"prompt": json.loads(number)}


# ---- any bytes, any body ------------------------------------------------------------------------

SEEDS = [
    json.dumps(GOOD).encode(),
    LAST % b'[1, 2, -3.5e7, "\\u00e9\\ud83d\\ude00", null, {"stop": ["\\n"]}]',
    b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": '
    b'[{"role": "user", "content": "x"}], "max_tokens": 3, "seed": 1, "top_p": 0.5, "n": 2}}',
]
SPLICES = [
    b"NaN", b'"', b"\\", b"\\ud800", b"\xff", b"\x00", b"[" * 2000, b"1e999", b"9" * 5000, b"}",
    b'"custom_id":', b"{", b",", b"-", b"\xed\xb2\x80", b"null", b"18446744073709551616",
]  # fmt: skip


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A good line with up to four cuts, copies and splices."""
    text = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(0, 4))):
        begin, end = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        inner = draw(st.sampled_from([b"", text[begin:end] * 2, *SPLICES]) | st.binary(max_size=4))
        text = text[:begin] + inner + text[end:]
    return text


def served(line: BatchLine) -> None:
    with contextlib.suppress(RequestError):
        parse_request(line, lambda messages: json.dumps(messages), job_seed=0)


@given(mutations() | st.binary(max_size=60))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_any_bytes_are_a_line_or_refused(text: bytes):
    with contextlib.suppress(BatchFileError):
        line = parse_line(text)
        assert line == parse_line(text)
        served(line)
        line.custom_id.encode()


FIELDS = [
    "prompt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k",
    "min_p", "seed", "n", "stop", "stop_token_ids", "ignore_eos", "return_token_ids", "model",
    "tools", "logprobs", "stream", "best_of",
]  # fmt: skip
wild_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "type"]) | st.text(max_size=3), inner)
    ),
    max_leaves=6,
)


@given(
    st.sampled_from(["/v1/completions", "/v1/chat/completions", "/"]),
    st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), wild_values, max_size=5),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_body_is_a_request_or_refused(url: str, body: dict):
    served(BatchLine("a", url, body, "0"))
