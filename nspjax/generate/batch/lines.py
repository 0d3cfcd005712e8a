"""One line of a batch input file: OpenAI's `{custom_id, method, url, body}`.

A line that is no request is an error of the file. Where it is one, by its brackets and its
custom_id, but holds what JSON does not have, or no program reads alike, that is an error of the
request; and so is what is wrong inside `body`, which `batch.fields` finds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from typing import Any

import orjson

from nspjax.errors import BatchFileError

_SHOWN = 60
"""Characters of a wrong value that a message repeats."""
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{},:]|[^][{},:"\s]+', re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class BatchLine:
    """A line that can be answered. digest: of its content; spaces and the order of keys do not
    count. problem: why the answer can only be an error; then there are no url and body."""

    custom_id: str
    url: str
    body: dict[str, Any]
    digest: str
    problem: str | None = None


class _NotPlainJSONError(BatchFileError):
    """JSON's brackets and commas, but with something in it that is not to be read."""


def parse_line(text: bytes) -> BatchLine:
    """The request in one line of JSON.

    Raises:
      BatchFileError: not JSON, or not the four fields; the message names no line number.
    """
    try:
        value = _object(text)
        digest = _digest(value)
    except _NotPlainJSONError as error:
        custom_id = _custom_id(text)
        if custom_id is None:
            raise BatchFileError(str(error)) from None
        return BatchLine(custom_id, "", {}, _hash(text), problem=str(error))
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
    return BatchLine(value["custom_id"], value["url"], value["body"], digest)


def unreadable_line(custom_id: str, problem: str) -> BatchLine:
    """A request that has a custom_id, and otherwise what cannot be read."""
    return BatchLine(custom_id, "", {}, _hash(f"{custom_id}: {problem}".encode()), problem)


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
        raise _NotPlainJSONError(f"not UTF-8: byte 0x{byte:02x} at column {at}") from None
    except json.JSONDecodeError as error:
        raise BatchFileError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise _NotPlainJSONError("not usable JSON: nested too deep") from None
    except ValueError as error:  # a number of thousands of digits
        raise _NotPlainJSONError(f"not usable JSON: {error}") from None
    if not isinstance(value, dict):
        raise BatchFileError(f"must be a JSON object, got {shown(value)}")
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _NotPlainJSONError(f"not usable JSON: the key {shown(twice)} appears twice")
    return unique


def _no_constant(name: str) -> None:
    raise _NotPlainJSONError(f"not JSON: {name} is not a JSON value")


def _custom_id(text: bytes) -> str | None:
    """The custom_id of an object that no parser reads, if it has exactly one and that is text."""
    found, depth, path = [], 0, ("", "")
    for token in _TOKEN.findall(text.decode(errors="surrogateescape")):
        if depth == 1 and path == ('"custom_id"', ":"):
            found.append(token)
        depth += (token in "[{") - (token in "]}")
        path = (path[1], token)
    try:
        (literal,) = found
        custom_id = json.loads(literal)
        custom_id.encode()
    except (ValueError, AttributeError):
        return None
    return custom_id or None


def _digest(value: dict[str, Any]) -> str:
    try:
        return _hash(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
    except TypeError:  # a lone surrogate, an integer beyond 64 bits, or deep nesting
        pass
    try:
        return _hash(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())
    except UnicodeEncodeError as error:
        lone = ord(error.object[error.start])
        raise _NotPlainJSONError(
            f"not usable JSON: \\u{lone:04x} is half of a character, a surrogate without the other"
        ) from None
    except RecursionError:
        raise _NotPlainJSONError("not usable JSON: nested too deep") from None


def _hash(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=12).hexdigest()
