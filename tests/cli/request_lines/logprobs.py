"""Logprobs of a result: their form, and their values from the logits of `PlainLlama`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from request_lines.expected import token_text
from request_lines.model import SPECIAL, TOKENS
from request_lines.plain_llama import log_softmax

Body = Mapping[str, Any]
BY_TEXT = {token_text(token): token for token in range(len(TOKENS))}
CLOSE = {"abs": 1e-4}
"""float32 and float64."""


def check_logprobs(
    asked: Body, choice: Body, prompt: Sequence[int], tokens: Sequence[int], logits: np.ndarray
) -> None:
    """Those of a choice, if they were asked for. logits: after each token of prompt and answer."""
    n_top = asked.get("logprobs")
    if n_top is None or n_top is False:
        assert choice["logprobs"] is None
        return
    logprobs = log_softmax(logits)[:-1]  # of each token but the first
    if "messages" in asked:
        of_answer = logprobs[len(prompt) - 1 :]
        _check_chat(choice["logprobs"], tokens, asked.get("top_logprobs", 0), of_answer)
    elif asked.get("echo"):
        _check_completion(choice, [*prompt, *tokens], n_top, [None, *logprobs])
    else:
        _check_completion(choice, tokens, n_top, [*logprobs[len(prompt) - 1 :]])


def _check_chat(found: Body, tokens: Sequence[int], n_top: int, logprobs: np.ndarray) -> None:
    assert found.keys() == {"content", "refusal"}
    assert found["refusal"] is None
    for token, entry, right in zip(tokens, found["content"], logprobs, strict=True):
        assert entry.keys() == {"token", "logprob", "bytes", "top_logprobs"}
        assert entry["token"] == token_text(token)
        for each in (entry, *entry["top_logprobs"]):
            assert each["bytes"] == list(TOKENS[BY_TEXT[each["token"]]])
            assert each["logprob"] == pytest.approx(right[BY_TEXT[each["token"]]], **CLOSE)
        assert len({each["token"] for each in entry["top_logprobs"]}) == n_top
        values = [each["logprob"] for each in entry["top_logprobs"]]
        assert values == pytest.approx(_largest(right, n_top), **CLOSE)


def _check_completion(
    choice: Body, tokens: Sequence[int], n_top: int, logprobs: Sequence[np.ndarray | None]
) -> None:
    found = choice["logprobs"]
    assert found.keys() == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert found["tokens"] == [token_text(token) for token in tokens]
    assert found["text_offset"] == _offsets(tokens, choice["text"])
    for token, value, top, right in zip(
        tokens, found["token_logprobs"], found["top_logprobs"], logprobs, strict=True
    ):
        if right is None:
            assert value is top is None
            continue
        assert value == top[token_text(token)]
        for text, each in top.items():
            assert each == pytest.approx(right[BY_TEXT[text]], **CLOSE)
        assert sorted(top.values())[::-1][:n_top] == pytest.approx(_largest(right, n_top), **CLOSE)
        assert len(top) == n_top + int((right > right[token]).sum() >= n_top)


def _offsets(tokens: Sequence[int], text: str) -> list[int]:
    """Where each token begins: at the character that has its first byte."""
    raw, found = b"", []
    for token in tokens:
        if token in SPECIAL:
            found.append(len(raw.decode(errors="replace")))
            continue
        found.append(len((raw + TOKENS[token][:1]).decode(errors="replace")) - 1)
        raw += TOKENS[token]
    return [min(each, len(text)) for each in found]


def check_prompt_logprobs(
    n_top: int, found: Sequence[Any], prompt: Sequence[int], logits: np.ndarray
) -> None:
    """vLLM's `prompt_logprobs`: by token id, nothing for the first. logits: after each token."""
    assert found[0] is None
    right = log_softmax(logits)[:-1]
    for token, entries, logprobs in zip(prompt[1:], found[1:], right, strict=True):
        for name, entry in entries.items():
            assert entry.keys() == {"logprob", "rank", "decoded_token"}
            assert entry["decoded_token"] == token_text(int(name))
            assert entry["logprob"] == pytest.approx(logprobs[int(name)], **CLOSE)
            assert entry["rank"] == 1 + (logprobs > logprobs[int(name)]).sum()
        ranks = {entry["rank"] for entry in entries.values()}
        assert ranks == {*range(1, n_top + 1), entries[str(token)]["rank"]}


def _largest(logprobs: np.ndarray, n: int) -> list[float]:
    return [float(each) for each in np.sort(logprobs)[::-1][:n]]
