"""Lines of `request_lines.jsonl` that are refused, and what they are told."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

_COMPLETION = ("/v1/completions", {"prompt": "Say it.", "max_tokens": 6})
_CHAT = ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})
_CLOCK = {"type": "function", "function": {"name": "clock"}}
_NAMED = {"type": "function", "function": {"name": "nobody"}}
_IMAGE = [{"type": "image_url", "image_url": {"url": "data:,"}}]
_NO_JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "strin"}}}
_NOT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {"type": "null"}}}}

Case = tuple[dict[str, Any], str, str]
"""Fields of the body, the field at fault, and a part of the message."""

COMPLETION: list[Case] = [
    ({"prompt": None}, "prompt", "it is missing"),
    ({"prompt": []}, "prompt", "must be a text"),
    ({"prompt": [1, "x"]}, "prompt", "must be a text"),
    ({"prompt": "", "add_special_tokens": False}, "prompt", "is empty"),
    ({"prompt": [1, 288]}, "prompt", "holds 288: the model's tokens are 0 to 287"),
    ({"prompt": ["fits", "a" * 127]}, "prompt", "has 128 tokens"),
    ({"max_tokens": 0}, "max_tokens", "an integer >= 1"),
    ({"max_tokens": 121}, "max_tokens", "has room for 120"),
    ({"max_tokens": 128, "truncate_prompt_tokens": -1}, "max_tokens", "no room for a prompt"),
    ({"logprobs": 21}, "logprobs", "in [0, 20]"),
    ({"logprobs": True}, "logprobs", "in [0, 20]"),
    ({"echo": 1}, "echo", "true or false"),
]
CHAT: list[Case] = [
    ({"messages": None}, "messages", "it is missing"),
    ({"messages": []}, "messages", "must be a list"),
    ({"messages": [{"content": "x"}]}, "messages[0]", 'needs a "role"'),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages", "no role is called wizard"),
    ({"messages": [{"role": "user", "content": _IMAGE}]}, "messages[0].content", "image_url"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content", "must be text"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "an integer >= 1"),
    ({"max_completion_tokens": 500}, "max_completion_tokens", "has room for"),
    ({"max_completion_tokens": 2, "min_tokens": 3}, "min_tokens", "at most max_completion_tokens"),
    ({"max_tokens": 500}, "max_tokens", "has room for"),
    ({"logprobs": 3}, "logprobs", "true or false"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "in [0, 20]"),
    ({"top_logprobs": 2}, "top_logprobs", "needs"),
    ({"tools": {}}, "tools", "a list"),
    ({"tools": [{"type": "function"}]}, "tools[0]", "name"),
    ({"tool_choice": "required"}, "tool_choice", "there are none"),
    ({"tools": [_CLOCK], "tool_choice": _NAMED}, "tool_choice", "no such tool"),
    ({"tools": [_CLOCK], "tool_choice": "some"}, "tool_choice", "must be none, auto"),
    ({"tools": [_CLOCK], "tool_choice": "required", "guided_regex": "a"}, "tool_choice", "one"),
    ({"tools": [_CLOCK], "parallel_tool_calls": "no"}, "parallel_tool_calls", "true or false"),
    ({"chat_template_kwargs": {"tokenize": 1}}, "chat_template_kwargs", "'tokenize'"),
    (
        {"continue_final_message": True, "add_generation_prompt": True},
        "add_generation_prompt",
        "ask for one",
    ),
    ({"reasoning_effort": 3}, "reasoning_effort", "a string"),
    ({"documents": "x"}, "documents", "a list of objects"),
]
EITHER: list[Case] = [
    ({"temperature": -1}, "temperature", "a number >= 0"),
    ({"temperature": "hot"}, "temperature", "a number >= 0"),
    ({"top_p": 0}, "top_p", "in (0, 1]"),
    ({"top_k": 1.5}, "top_k", "an integer >= -1"),
    ({"min_p": 2}, "min_p", "in [0, 1]"),
    ({"n": 129}, "n", "in [1, 128]"),
    ({"seed": "x"}, "seed", "an integer"),
    ({"presence_penalty": 3}, "presence_penalty", "in [-2, 2]"),
    ({"repetition_penalty": 0}, "repetition_penalty", "> 0"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "each token"),
    ({"logit_bias": {"5": 101}}, "logit_bias", "in [-100, 100]"),
    ({"allowed_token_ids": []}, "allowed_token_ids", "is empty"),
    ({"allowed_token_ids": [288]}, "allowed_token_ids", "holds 288"),
    ({"bad_words": 3}, "bad_words", "text"),
    ({"bad_words": " "}, "bad_words", "no token"),
    ({"stop": [""]}, "stop", "non-empty"),
    ({"stop": "a<|eos|>"}, "stop", "special token"),
    ({"stop_token_ids": [-1]}, "stop_token_ids", "an integer >= 0"),
    ({"min_tokens": 7, "max_tokens": 6}, "min_tokens", "at most max_tokens"),
    ({"include_stop_str_in_output": "yes"}, "include_stop_str_in_output", "true or false"),
    ({"prompt_logprobs": -2}, "prompt_logprobs", "in [0, 20]"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "an integer >= 1"),
    ({"add_special_tokens": 1}, "add_special_tokens", "true or false"),
    ({"return_token_ids": 1}, "return_token_ids", "true or false"),
    ({"model": 3}, "model", "a string"),
    ({"response_format": {"type": "xml"}}, "response_format", "must be"),
    ({"response_format": _NO_JSON_SCHEMA}, "response_format", "strin"),
    ({"response_format": _NOT}, "response_format", "not"),
    ({"guided_regex": "(?=a)b"}, "guided_regex", "guided_regex"),
    ({"guided_regex": "(" * 5000}, "guided_regex", "invalid regex"),
    ({"guided_grammar": "start: ("}, "guided_grammar", "guided_grammar"),
    ({"guided_choice": []}, "guided_choice", "a list of texts"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "exactly one"),
    ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_regex", "one form"),
]
UNSUPPORTED: list[dict[str, Any]] = [
    {"stream": True},
    {"best_of": 3},
    {"skip_special_tokens": False},
    {"chat_template": "{{ 1 }}"},
    {"use_beam_search": True},
]


def refused_requests() -> Iterator[tuple[str, str, dict[str, Any], Mapping[str, Any]]]:
    """Kind, url, body, and the error: param, code and a part of the message."""
    turns = itertools.cycle([_COMPLETION, _CHAT])
    places = [(_COMPLETION, COMPLETION), (_CHAT, CHAT)]
    cases = [(place, case, "invalid_value") for place, each in places for case in each]
    cases += [(next(turns), case, "invalid_value") for case in EITHER]
    for asked in UNSUPPORTED:
        (name,) = asked
        cases.append((next(turns), (asked, name, "is not supported"), "unsupported_field"))
    cases += [
        (_COMPLETION, ({"suffix": "x"}, "suffix", "is not supported"), "unsupported_field"),
        (_COMPLETION, ({"top_logprobs": 2}, "top_logprobs", "not supported"), "unsupported_field"),
        (_CHAT, ({"echo": True}, "echo", "is not supported"), "unsupported_field"),
        (_CHAT, ({"modalities": ["audio"]}, "modalities", "not supported"), "unsupported_field"),
        (_COMPLETION, ({"messages": []}, "messages", "has no field"), "unknown_field"),
        (_CHAT, ({"prompt": "x"}, "prompt", "has no field"), "unknown_field"),
        (_CHAT, ({"temprature": 1}, "temprature", "has no field"), "unknown_field"),
        (("/v1/embeddings", {}), ({"input": "x"}, "url", "no endpoint"), "unknown_endpoint"),
    ]
    for (url, body), (asked, param, message), code in cases:
        error = {"param": param, "code": code, "message": message}
        yield next(iter(asked)), url, {**body, **asked}, error


def broken_lines() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Kind, line with ID in the custom_id's place, and the error."""
    for kind, value, message in (
        ("half a surrogate pair", r'"a\ud83d"', r"\ud83d is half of a character"),
        ("NaN", '"x", "top_p": NaN', "NaN is not a JSON value"),
        ("Infinity", '"x", "top_p": -Infinity', "-Infinity is not a JSON value"),
        ("a key twice", '"x", "n": 1, "n": 2', 'the key "n" appears twice'),
        ("a number of many digits", '"x", "n": ' + 5000 * "9", "not usable JSON"),
    ):
        line = '{"custom_id": "ID", "method": "POST", "url": "/v1/completions", '
        error = {"param": None, "code": "invalid_json", "message": message}
        yield kind, f'{line}"body": {{"prompt": {value}}}}}', error
