"""What a choice of a result must be."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema

from request_lines.answered import CITY, COUNT
from request_lines.expected import (
    Call,
    calls_in,
    expected_ending,
    form_of,
    has_token_ids,
    must_call,
    text_of,
)
from request_lines.logprobs import check_logprobs
from request_lines.model import EOS, IM_END, TOKENS
from request_lines.plain_llama import PlainLlama
from request_lines.sampling import check_sampled

Body = Mapping[str, Any]
_GRAMMARS = {'start: "<" /[a-c]{1,4}/ ">"': "<[a-c]{1,4}>", 'root ::= "{" [a-z] "}"': r"\{[a-z]\}"}
"""As regular expressions."""


def check_choice(asked: Body, choice: Body, prompt: Sequence[int], model: PlainLlama) -> int | None:
    """Returns how many tokens it has, None where the result does not say."""
    fields = {"index", "logprobs", "finish_reason", "stop_reason"}
    if "messages" in asked:
        fields |= {"message"} | ({"token_ids"} if has_token_ids(asked) else set())
    else:
        fields |= {"text"} | ({"prompt_logprobs"} & asked.keys())
        fields |= {"token_ids", "prompt_token_ids"} if has_token_ids(asked) else set()
    assert choice.keys() == fields
    if not has_token_ids(asked):
        return None
    tokens = choice["token_ids"]
    logits = model.logits((*prompt, *tokens))
    check_logprobs(asked, choice, prompt, tokens, logits)
    if form_of(asked) is None and not must_call(asked) and "bad_words" not in asked:
        check_sampled(asked, prompt, tokens, logits[len(prompt) - 1 :])
    if asked.get("echo") and asked.get("max_tokens") == 0:
        assert (choice["finish_reason"], choice["stop_reason"], tokens) == ("length", None, [])
        assert choice["text"] == _echoed(asked, prompt)
        return 0
    ending = expected_ending(asked, prompt, tokens)
    content, calls = calls_in(asked, tokens, ending)
    reason = "tool_calls" if calls and ending.finish_reason == "stop" else ending.finish_reason
    assert (choice["finish_reason"], choice["stop_reason"]) == (reason, ending.stop_reason)
    _check_tokens(asked, tokens, ending.text)
    _check_form(asked, reason, ending.text)
    if "messages" in asked:
        _check_message(asked, choice["message"], content, calls, reason)
    else:
        assert choice["text"] == _echoed(asked, prompt) + ending.text
    return len(tokens)


def _echoed(asked: Body, prompt: Sequence[int]) -> str:
    if not asked.get("echo"):
        return ""
    given = isinstance(asked["prompt"], str) and "truncate_prompt_tokens" not in asked
    return asked["prompt"] if given else text_of(prompt)


def _check_tokens(asked: Body, tokens: Sequence[int], text: str) -> None:
    """What the request rules out is not there."""
    assert {*tokens} <= {*asked.get("allowed_token_ids", range(len(TOKENS)))}
    if not asked.get("ignore_eos"):
        assert not {EOS, IM_END} & {*tokens[: asked.get("min_tokens", 0)]}
    words = asked.get("bad_words", [])
    assert not any(word in text for word in ([words] if isinstance(words, str) else words))


def _check_form(asked: Body, reason: str, text: str) -> None:
    """The answer has the form; JSON that was cut has begun."""
    form = form_of(asked)
    if form is None:
        return
    kind, wanted = form
    match kind:
        case "json" | "json_object" if reason == "length":
            assert text[0] in "{["  # digits and strings may go on for long
        case "json":
            schema = json.loads(wanted) if isinstance(wanted, str) else wanted
            jsonschema.validate(json.loads(text), schema)
            _check_spaces(asked, text)
        case "json_object":
            assert isinstance(json.loads(text), dict)
        case "regex":
            assert re.fullmatch(wanted, text)
        case "grammar":
            assert re.fullmatch(_GRAMMARS[wanted], text)
        case "choice":
            assert text in wanted
        case "structural_tag":
            values = re.findall("<n>(.*?)</n>", text)
            assert values
            for value in values:
                jsonschema.validate(json.loads(value), COUNT)


def _check_spaces(asked: Body, text: str) -> None:
    spaces = re.findall(r"\s+", re.sub(r'"(\\.|[^"\\])*"', "", text))
    if asked.get("structured_outputs", {}).get("disable_any_whitespace"):
        assert not spaces
    if "guided_whitespace_pattern" in asked:
        assert all(re.fullmatch(asked["guided_whitespace_pattern"], each) for each in spaces)


def _check_message(
    asked: Body, message: Body, content: str | None, calls: Sequence[Call], reason: str
) -> None:
    assert message["role"] == "assistant"
    assert message["content"] == content
    assert ("tool_calls" in message) == bool(calls)
    made = message.get("tool_calls", [])
    for call, (name, arguments) in zip(made, calls, strict=True):
        assert call["type"] == "function"
        assert call["function"]["name"] == name
        assert json.loads(call["function"]["arguments"]) == arguments
    assert len({call["id"] for call in made}) == len(made)
    assert all(re.fullmatch("[0-9a-z]{9}", call["id"]) for call in made)  # Mistral's
    if not must_call(asked):
        return
    assert calls or reason == "length"
    for name, arguments in calls:
        assert name == "weather" or asked["tool_choice"] == "required"
        jsonschema.validate(arguments, CITY if name == "weather" else {"maxProperties": 0})
