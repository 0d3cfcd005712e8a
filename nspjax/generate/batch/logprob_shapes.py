"""Logprobs as OpenAI's two endpoints have them in a choice, and the prompt's as vLLM has them."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from nspjax.generate.outputs import Logprob

Record = Mapping[int, Logprob]
"""Of one place: the token that stands there comes first."""

_LEAST = -9999.0
"""In the place of -inf, which JSON does not have; as vLLM writes it."""
_NO_CHARACTER = "\ufffd"
"""What decoding gives for bytes that are none."""


def chat_logprobs(records: Sequence[Record], n_top: int) -> dict[str, Any]:
    """`choices[].logprobs` of a chat completion."""
    content = [
        {
            **_entry(next(iter(record.values()))),
            "top_logprobs": [_entry(found) for found in _likeliest(record, n_top)],
        }
        for record in records
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    records: Sequence[Record], text: str, first: tuple[str, bytes] | None = None
) -> dict[str, Any]:
    """`choices[].logprobs` of a completion with this text.

    first: text and bytes of a token before those of `records`, which has no logprob: the one with
    which an echoed prompt begins. `text_offset` says where in `text` each token begins.
    """
    found = [next(iter(record.values())) for record in records]
    texts, raw = [each.decoded_token for each in found], [each.decoded_bytes for each in found]
    values, top = [_number(each) for each in found], [_by_text(record) for record in records]
    before = [None] if first else []
    return {
        "text_offset": _offsets([first[1], *raw] if first else raw, text),
        "token_logprobs": [*before, *values],
        "tokens": [first[0], *texts] if first else texts,
        "top_logprobs": [*before, *top],
    }


def prompt_logprobs(records: Sequence[Record | None]) -> list[dict[str, Any] | None]:
    """vLLM's `prompt_logprobs`, by token id."""
    return [
        None if record is None else {str(token): _vllm_entry(record[token]) for token in record}
        for record in records
    ]


def _entry(found: Logprob) -> dict[str, Any]:
    return {
        "token": found.decoded_token,
        "logprob": _number(found),
        "bytes": list(found.decoded_bytes),
    }


def _vllm_entry(found: Logprob) -> dict[str, Any]:
    return {
        "logprob": _number(found),
        "rank": found.rank,
        "decoded_token": found.decoded_token,
    }


def _number(found: Logprob) -> float:
    return max(found.logprob, _LEAST)


def _likeliest(record: Record, n_top: int) -> list[Logprob]:
    by_rank = sorted(record.values(), key=lambda found: found.rank)
    return list(itertools.islice((found for found in by_rank if found.rank <= n_top), n_top))


def _by_text(record: Record) -> dict[str, float]:
    values: dict[str, float] = {}
    for found in record.values():
        values.setdefault(found.decoded_token, _number(found))
    return values


def _offsets(tokens: Sequence[bytes], text: str) -> list[int]:
    """Where each token begins. What is not in the text, as special tokens are not, takes no room;
    parts of a character begin where it does."""
    offsets, at, part = [], 0, b""
    for token in tokens:
        if _breaks_off(part, token) and text.startswith(_NO_CHARACTER, at):
            at, part = at + 1, b""
        offsets.append(at)
        piece, n_read = codecs.utf_8_decode(part + token, "replace", False)
        for shown in (piece, piece.lstrip(" ")):  # a text's first space may have been dropped
            if text.startswith(shown, at):
                at, part = at + len(shown), (part + token)[n_read:]
                break
    return offsets


def _breaks_off(part: bytes, token: bytes) -> bool:
    """Whether a part of a character is not one together with what comes next."""
    try:
        (part + token[:1]).decode()
    except UnicodeDecodeError as error:
        return bool(part) and error.reason != "unexpected end of data"
    return False
