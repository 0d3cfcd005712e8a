"""What an answer holds: calls, and text beside them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class ToolCall:
    """A call of the function `name`. arguments: an object, as JSON text."""

    name: str
    arguments: str


@dataclasses.dataclass(frozen=True)
class ReadAnswer:
    """An answer with its calls, at least one. content: the text beside them, None where none is."""

    content: str | None
    calls: tuple[ToolCall, ...]


def call_of(value: Any, arguments_key: str) -> ToolCall | None:
    """The call that a JSON value describes: {"name": …, arguments_key: {…}}; None: it does not."""
    if not isinstance(value, dict):
        return None
    name, arguments = value.get("name"), value.get(arguments_key)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    text = json.dumps(arguments, ensure_ascii=False)
    try:
        (name + text).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which no result line can hold
        return None
    return ToolCall(name, text)


def json_at(text: str, begin: int) -> tuple[Any, int]:
    """The JSON value that begins at or after spaces from `begin`, and where it ends.

    Raises:
      ValueError, RecursionError: there is none.
    """
    decoder = json.JSONDecoder(strict=False, parse_constant=_no_constant)
    return decoder.raw_decode(text, skip_spaces(text, begin))


def skip_spaces(text: str, begin: int) -> int:
    """The first place from `begin` on that is no space."""
    while begin < len(text) and text[begin].isspace():
        begin += 1
    return begin


def without(text: str, spans: Sequence[tuple[int, int]]) -> str | None:
    """The text outside the spans, None where that is nothing."""
    begins = [0, *(end for _, end in spans)]
    ends = [*(begin for begin, _ in spans), len(text)]
    rest = (text[begin:end] for begin, end in zip(begins, ends, strict=True))
    return "".join(rest).strip() or None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")
