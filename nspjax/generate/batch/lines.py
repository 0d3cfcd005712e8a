"""One line of a batch input file: OpenAI's `{custom_id, method, url, body}`.

What is wrong with the line itself is an error of the file; what is wrong inside `body` concerns
that request alone and is found by `batch.fields`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import orjson

from nspjax.errors import BatchFileError

_SHOWN = 60
"""Characters of a wrong value that a message repeats."""


@dataclasses.dataclass(frozen=True, slots=True)
class BatchLine:
    """A well-formed line. digest: of its content; spaces and the order of keys do not count."""

    custom_id: str
    url: str
    body: dict[str, Any]
    digest: str


def parse_line(text: bytes) -> BatchLine:
    """The request in one line of JSON.

    Raises:
      BatchFileError: not JSON, or not the four fields; the message names no line number.
    """
    value = _object(text)
    for name, kind, example in (
        ("custom_id", str, '"request-1"'),
        ("method", str, '"POST"'),
        ("url", str, '"/v1/completions"'),
        ("body", dict, '{"prompt": "..."}'),
    ):
        if name not in value:
            raise BatchFileError(f'no "{name}": each line needs one, for example {example}')
        if not isinstance(value[name], kind):
            wanted = "a string" if kind is str else "an object"
            raise BatchFileError(
                f'"{name}" must be {wanted}, for example {example}; got {shown(value[name])}'
            )
    if not value["custom_id"]:
        raise BatchFileError('"custom_id" is empty: it must tell the request from all others')
    if value["method"] != "POST":
        raise BatchFileError(f'"method" must be "POST", got {shown(value["method"])}')
    return BatchLine(value["custom_id"], value["url"], value["body"], _digest(value))


def shown(value: object) -> str:
    """`value` as JSON, cut to a length that fits a message."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _object(text: bytes) -> dict[str, Any]:
    """The JSON object in `text`. Stricter than `json.loads`: no NaN, and no key twice."""
    try:
        value = json.loads(
            text.decode(), object_pairs_hook=_unique_keys, parse_constant=_no_constant
        )
    except UnicodeDecodeError as error:
        byte, at = text[error.start], error.start + 1
        raise BatchFileError(f"not UTF-8: byte 0x{byte:02x} at column {at}") from None
    except json.JSONDecodeError as error:
        raise BatchFileError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise BatchFileError("not usable JSON: nested too deep") from None
    except ValueError as error:  # a number of thousands of digits
        raise BatchFileError(f"not usable JSON: {error}") from None
    if not isinstance(value, dict):
        raise BatchFileError(f"must be a JSON object, got {shown(value)}")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BatchFileError(f"not usable JSON: the key {shown(twice)} appears twice")
    return unique


def _no_constant(name: str) -> None:
    raise BatchFileError(f"not JSON: {name} is not a JSON value")


def _digest(value: dict[str, Any]) -> str:
    try:
        canonical = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:  # a lone surrogate, or an integer beyond 64 bits
        raise BatchFileError(f"not usable JSON: {error}") from None
    return hashlib.blake2b(canonical, digest_size=12).hexdigest()
