"""Lines that are answered, by kind."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from request_lines.model import BOS, CALL, EOS, IDS, IM_END

ENDPOINTS = ("completion", "chat")
Body = dict[str, Any]

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 3}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "the time"}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
NAMED = {"type": "function", "function": {"name": "weather"}}
COUNT = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 3}
TAGS = {"structures": [{"begin": "<n>", "schema": COUNT, "end": "</n>"}], "triggers": ["<n>"]}
_TAGGED = {"logit_bias": {str(IDS[b"<n>"]): 100}, "max_tokens": 30}
LETTERS = [*range(ord("a"), ord("z") + 1)]
GREEDY = {"temperature": 0}


def said(text: Any, role: str = "user", **more: Any) -> Body:
    """A message."""
    return {"role": role, "content": text, **more}


def schema(value: Any, **more: Any) -> Body:
    """OpenAI's `response_format`."""
    form = {"name": "x", "schema": value, **more}
    return {"response_format": {"type": "json_schema", "json_schema": form}}


BOTH: dict[str, list[Body]] = {
    "defaults": [{}, {"max_tokens": None, "temperature": None, "stop": None, "n": None}],
    "plain": [
        {"return_token_ids": None, **GREEDY},
        {"return_token_ids": None, "model": "another"},
        {"return_token_ids": False, "seed": 4},
    ],
    "greedy": [GREEDY, {**GREEDY, "max_tokens": 12}, {"temperature": 1e-6}, {**GREEDY, "seed": 5}],
    "sampled": [
        {"temperature": 1},
        {"temperature": 0.7, "seed": 1},
        {"temperature": 2, "seed": -1},
        {"seed": 2**63 - 1},
    ],
    "top_k": [{"top_k": 1, "temperature": 1.5}, {"top_k": 4}, {"top_k": -1}],
    "top_p": [{"top_p": 0.001}, {"top_p": 0.3}],
    "min_p": [{"min_p": 1}, {"min_p": 0.4}, {"min_p": 0, "top_k": 5, "top_p": 0.9}],
    "n": [{"n": 3}, {"n": 3, "seed": 40}, {"n": 2, **GREEDY}, {"n": 128, **GREEDY}],
    "presence_penalty": [{"presence_penalty": 2, **GREEDY, "max_tokens": 12}],
    "frequency_penalty": [
        {"frequency_penalty": 2, **GREEDY, "max_tokens": 12},
        {"frequency_penalty": -2, "presence_penalty": -0.5, **GREEDY},
    ],
    "repetition_penalty": [
        {"repetition_penalty": 1000, **GREEDY, "max_tokens": 12},
        {"repetition_penalty": 1.2, "presence_penalty": 1, "temperature": 1},
    ],
    "logit_bias": [
        {"logit_bias": {str(IDS[b"ok"]): 100}, **GREEDY},
        {"logit_bias": {str(EOS): 100}},
        {"logit_bias": {"104": 3.5, "105": -100}, **GREEDY},
    ],
    "allowed_token_ids": [
        {"allowed_token_ids": LETTERS},
        {"allowed_token_ids": LETTERS, **GREEDY},
        {"allowed_token_ids": [122], "logit_bias": {"122": -100}},
    ],
    "bad_words": [
        {"bad_words": ["the", "ok"], "logit_bias": {str(IDS[b"ok"]): 100}, **GREEDY},
        {"bad_words": "zz", "allowed_token_ids": [121, 122], "max_tokens": 10},
    ],
    "stop": [
        {"stop": "ok", "logit_bias": {str(IDS[b"ok"]): 100}},
        {"stop": ["b", "cd"], "allowed_token_ids": [97, 98, 99, 100], "max_tokens": 20},
        {"stop": "aba", "allowed_token_ids": [97, 98], "max_tokens": 30},
        {"stop": ["nowhere to be found"]},
        {"stop": "<|im_end|>", "logit_bias": {str(IM_END): 100}, "ignore_eos": True},
    ],
    "stop_token_ids": [
        {"stop_token_ids": [97], "allowed_token_ids": [97, 98, 99], "max_tokens": 20},
        {"stop_token_ids": []},
    ],
    "ignore_eos": [{"ignore_eos": True, "logit_bias": {str(EOS): 100}}],
    "include_stop_str_in_output": [
        {"stop": "b", "allowed_token_ids": [97, 98], "max_tokens": 20}
        | {"include_stop_str_in_output": True},
        {"stop_token_ids": [97], "allowed_token_ids": [97, 98], "max_tokens": 20}
        | {"include_stop_str_in_output": True},
        {"stop": "an", "logit_bias": {str(IDS[b" answer"]): 100}}
        | {"include_stop_str_in_output": True},
    ],
    "min_tokens": [
        {"min_tokens": 4, "logit_bias": {str(EOS): 100}, "max_tokens": 9},
        {"min_tokens": 3, "stop": "b", "allowed_token_ids": [98], "max_tokens": 9},
        {"min_tokens": 6},
    ],
    "truncate_prompt_tokens": [
        {"truncate_prompt_tokens": 3, **GREEDY},
        {"truncate_prompt_tokens": -1},
        {"truncate_prompt_tokens": 500},
    ],
    "add_special_tokens": [{"add_special_tokens": True}, {"add_special_tokens": False, **GREEDY}],
    "prompt_logprobs": [
        {"prompt_logprobs": 0},
        {"prompt_logprobs": 3, "n": 2},
        {"prompt_logprobs": 2, **GREEDY, "truncate_prompt_tokens": 4},
    ],
    "response_format": [
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_object"}, "max_tokens": 40},
        {**schema(CITY, strict=True), "max_tokens": 60},
        {**schema(COUNT), "max_tokens": 60, "n": 2},
        {**schema(CITY), "max_tokens": 2},
    ],
    "structured_outputs": [
        {"structured_outputs": {"regex": r"[A-C]{2}-\d{1,3}"}, "max_tokens": 20},
        {"structured_outputs": {"choice": ["yes", "no", "日本"]}, "n": 3, "max_tokens": 12},
        {"structured_outputs": {"json": CITY, "disable_any_whitespace": True}, "max_tokens": 60},
        {"structured_outputs": {"grammar": 'start: "<" /[a-c]{1,4}/ ">"'}, "max_tokens": 12},
        {"structured_outputs": {"structural_tag": TAGS}, **_TAGGED},
    ],
    "structural_tag": [{"structural_tag": json.dumps(TAGS), **_TAGGED}],
    "guided_json": [
        {"guided_json": json.dumps(COUNT), "guided_whitespace_pattern": "\t\t?", "max_tokens": 60},
    ],
    "guided_json_object": [{"guided_json_object": True}],
    "guided_grammar": [{"guided_grammar": 'root ::= "{" [a-z] "}"'}],
    "guided": [
        {"guided_regex": "(ab|cd){1,3}e?", "max_tokens": 30, "ignore_eos": True},
        {"guided_choice": ["the", "answer"], "guided_decoding_backend": "xgrammar"},
    ],
    "ignored": [
        {"user": "u", "metadata": {"a": "b"}},
        {"stream": False, "best_of": 1, "skip_special_tokens": True, "length_penalty": 1.0},
    ],
    "together": [
        {"n": 2, "temperature": 0.8, "top_p": 0.9, "presence_penalty": 0.5, "stop": ["\n\n", "z"]}
        | {"seed": 3, "logit_bias": {"122": 2}, "min_tokens": 1, "max_tokens": 10},
        {**schema(COUNT), "logit_bias": {"57": 5}, "max_tokens": 60, "top_k": 50, "seed": 8},
        {"frequency_penalty": 1, "allowed_token_ids": LETTERS, "bad_words": ["e"], **GREEDY},
    ],
}  # fmt: skip
"""Fields of both endpoints; the first is the kind. null is a field that is not there."""

_ECHO = {"prompt": "Say it.", "echo": True, **GREEDY}
COMPLETION: dict[str, list[Body]] = {
    "prompt": [
        {"prompt": ["one", "the two", "日"], **GREEDY},
        {"prompt": ["one", "two"], "n": 2, "return_token_ids": None},
        {"prompt": [1, 2, 3], "return_token_ids": None},
        {"prompt": [BOS, 104, 105], "return_token_ids": False, **GREEDY},
        {"prompt": [[104], [104, 105]], "n": 2, "return_token_ids": None},
        {"prompt": [[122] * 40, "zz"]},
        {"prompt": "<|im_start|>user\n<|im_end|>"},
        {"prompt": "a" * 60, "max_tokens": 3},
        {"prompt": "e" * 100},
    ],
    "max_tokens": [{"max_tokens": 1}, {"prompt": "b" * 124, "max_tokens": None}],
    "logprobs": [
        {"logprobs": 0},
        {"prompt": "Say it.", "logprobs": 2, **GREEDY},
        {"logprobs": 20, "n": 2},
        {"logprobs": False},
        {"logprobs": 2, "prompt": ["one", "the two"]},
        {"logprobs": 2, "stop": "b", "allowed_token_ids": [97, 98], "max_tokens": 20},
        {"logprobs": 1, "logit_bias": {str(EOS): 100}},
        {"logprobs": 1, "logit_bias": {str(IDS["日".encode()[:2]]): 100}, **GREEDY},
        {"logprobs": 1, **schema(COUNT), "max_tokens": 60},
    ],
    "echo": [
        _ECHO,
        {**_ECHO, "logprobs": 2},
        {**_ECHO, "logprobs": 1, "max_tokens": 0},
        {**_ECHO, "max_tokens": 0, "n": 2},
        {**_ECHO, "prompt": [[104, 105], [106]], "logprobs": 0},
        {**_ECHO, "prompt": [104], "prompt_logprobs": 1, "logprobs": 1},
        {**_ECHO, "truncate_prompt_tokens": 2},
        {**_ECHO, "n": 2, "temperature": 1, "stop": "b"},
        {"echo": False},
    ],
}

_LOGPROBS = {"logprobs": True, "top_logprobs": 20}
_TOOLS = {"tools": [CLOCK, WEATHER], "max_tokens": 70}
_CALLING = {
    "tools": [CLOCK, WEATHER],
    "allowed_token_ids": [IDS[CALL.encode()], EOS],
    "min_tokens": 1,
    "logit_bias": {str(EOS): 100},
}
"""Which makes an answer of as many calls as it has tokens at least."""
_ASKED = said(None, "assistant", tool_calls=[
    {"id": "a1b2c3d4e", "type": "function",
     "function": {"name": "clock", "arguments": '{"zone": "UTC"}'}},
])  # fmt: skip
_PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "日"}]
CHAT: dict[str, list[Body]] = {
    "messages": [
        {"messages": [said("Be brief.", "system"), said("hi")]},
        {"messages": [said("Be.", "developer"), said("hi"), said("ho", "assistant"), said("x")]},
        {"messages": [said("time?"), _ASKED, said("12:00", "tool", tool_call_id="a1b2c3d4e")]},
        {"messages": [said(_PARTS)], **GREEDY},
        {"messages": [said("")]},
        {"messages": [said("hi", name="Ann")]},
    ],
    "documents": [{"documents": [{"title": "t", "text": "the text"}]}],
    "chat_template_kwargs": [{"chat_template_kwargs": {"enable_thinking": False}}],
    "reasoning_effort": [
        {"reasoning_effort": "low"},
        {"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "high"}},
    ],
    "continue_final_message": [
        {"messages": [said("hi"), said("the answer: ", "assistant")]}
        | {"continue_final_message": True, "add_generation_prompt": False},
        {"messages": [said("hi"), said("the", "assistant")], "continue_final_message": True},
    ],
    "add_generation_prompt": [{"add_generation_prompt": False}, {"add_generation_prompt": True}],
    "max_tokens": [
        {"max_tokens": None, "max_completion_tokens": 3},
        {"max_tokens": 9, "max_completion_tokens": 2},
        {"messages": [said("y" * 70)], "max_tokens": None},
    ],
    "logprobs": [
        {"logprobs": True},
        {"logprobs": False},
        {"logprobs": True, "top_logprobs": 0},
        {"logprobs": True, "top_logprobs": 5, **GREEDY},
        {**_LOGPROBS, "n": 2},
        {"logprobs": True, "top_logprobs": 2, "prompt_logprobs": 1},
        {**_LOGPROBS, "top_k": 3, "n": 2},
        {**_LOGPROBS, "top_p": 0.2, "max_tokens": 12},
        {**_LOGPROBS, "min_p": 0.5, "max_tokens": 12},
        {**_LOGPROBS, **GREEDY, "presence_penalty": 1, "frequency_penalty": 1, "max_tokens": 20},
        {**_LOGPROBS, **GREEDY, "repetition_penalty": 1.5, "max_tokens": 20},
        {**_LOGPROBS, **GREEDY, "logit_bias": {"104": 1.5, "97": 2}, "max_tokens": 20},
        {**_LOGPROBS, **GREEDY, "logit_bias": {str(IDS["日".encode()[:2]]): 100}},
        {**_LOGPROBS, **schema(COUNT), "max_tokens": 60},
        {**_LOGPROBS, **_CALLING},
    ],
    "tools": [
        {"tools": [], "parallel_tool_calls": True},
        {"tools": [CLOCK]},
        {**_CALLING},
        {**_CALLING, "min_tokens": 2, "parallel_tool_calls": False},
        {**_CALLING, "min_tokens": 2, "tool_choice": "auto"},
        {**_CALLING, "tool_choice": "none"},
        {**_CALLING, "n": 2, **GREEDY},
        {**_CALLING, "min_tokens": 3, "max_tokens": 3},
        {**_TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
        {**_TOOLS, "tool_choice": "required", "max_tokens": 4},
        {**_TOOLS, "tool_choice": NAMED},
        {**_TOOLS, "tool_choice": NAMED, "n": 2, "seed": 9},
        {**_TOOLS, "tool_choice": NAMED, **GREEDY, "messages": [said("the weather?")]},
        {**_TOOLS, "guided_choice": ["yes", "no"]},
    ],
}  # fmt: skip


def answered() -> Iterator[tuple[str, str, Body]]:
    """Kind, endpoint, body. Of what both endpoints serve, each is asked for two of a kind, and
    for the others in turn."""
    turns = itertools.cycle(ENDPOINTS)
    for kind, bodies in BOTH.items():
        for i, body in enumerate(bodies):
            for endpoint in ENDPOINTS if i < 2 else [next(turns)]:
                yield kind, endpoint, body
    for endpoint, kinds in (("completion", COMPLETION), ("chat", CHAT)):
        for kind, bodies in kinds.items():
            for body in bodies:
                yield kind, endpoint, body
