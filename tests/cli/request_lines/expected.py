"""What a result must be, from its request alone: nothing here asks the code under test.

`expected_prompts` tokenizes as transformers does, `expected_ending` says how tokens end an answer
and what text they make, `calls_in` reads calls.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from request_lines.model import EOS, IM_END, SPECIAL, TOKENS, tokenizer

CONTEXT = 128
_TOKENIZER = tokenizer()
_NO_CHARACTER = "\ufffd"
Call = tuple[str, dict[str, Any]]
"""A function's name and its arguments."""


def token_text(token: int) -> str:
    """As logprobs show it."""
    try:
        return TOKENS[token].decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in TOKENS[token])


def text_of(tokens: Sequence[int]) -> str:
    """Without special ones."""
    return b"".join(TOKENS[t] for t in tokens if t not in SPECIAL).decode(errors="replace")


def added_text(before: Sequence[int], tokens: Sequence[int]) -> str:
    """What tokens add to those before."""
    return text_of([*before, *tokens]).removeprefix(text_of(before))


def expected_prompts(body: Mapping[str, Any]) -> list[list[int]]:
    """The tokens of each prompt."""
    if "messages" in body:
        found = [_chat_tokens(body)]
    else:
        prompt, special = body["prompt"], body.get("add_special_tokens", True)
        several = isinstance(prompt, list) and not isinstance(prompt[0], int)
        found = [
            _TOKENIZER.encode(each, add_special_tokens=special) if isinstance(each, str) else each
            for each in (prompt if several else [prompt])
        ]
    kept = body.get("truncate_prompt_tokens")
    if kept == -1:
        kept = CONTEXT - body["max_tokens"]
    return [tokens if kept is None else tokens[-kept:] for tokens in found]


def _chat_tokens(body: Mapping[str, Any]) -> list[int]:
    conversation = json.loads(json.dumps(body["messages"]))
    for message in conversation:
        if isinstance(message.get("content"), list):
            message["content"] = "\n".join(part["text"] for part in message["content"])
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    final = body.get("continue_final_message", False)
    text = _TOKENIZER.apply_chat_template(
        conversation,
        tools=None if body.get("tool_choice") == "none" else body.get("tools") or None,
        documents=body.get("documents"),
        add_generation_prompt=body.get("add_generation_prompt", not final),
        continue_final_message=final,
        tokenize=False,
        **{
            "reasoning_effort": body.get("reasoning_effort"),
            **body.get("chat_template_kwargs", {}),
        },
    )
    return _TOKENIZER.encode(text, add_special_tokens=body.get("add_special_tokens", False))


def most_tokens(body: Mapping[str, Any], prompt: Sequence[int]) -> int:
    """Of an answer."""
    room = CONTEXT - len(prompt)
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    if most is None:
        most = room if "messages" in body else 16
    return min(most, room)


@dataclasses.dataclass(frozen=True)
class Ending:
    """finish_reason, stop_reason, text."""

    finish_reason: str
    stop_reason: int | str | None
    text: str


def expected_ending(
    body: Mapping[str, Any], prompt: Sequence[int], tokens: Sequence[int]
) -> Ending:
    """How an answer of these tokens ends.

    Raises:
      AssertionError: it would have ended before the last of them, or not yet.
    """
    least = body.get("min_tokens", 0)
    for n in range(1, len(tokens) + 1):
        ending = _ending_after(body, prompt, tokens[:n], least)
        if ending is not None:
            assert n == len(tokens), "tokens after the end"
            return ending
    if len(tokens) < most_tokens(body, prompt):
        assert has_form(body), "too few tokens"
        return Ending("stop", None, added_text(prompt, tokens))
    assert len(tokens) == most_tokens(body, prompt)
    return Ending("length", None, added_text(prompt, tokens))


def _ending_after(
    body: Mapping[str, Any], prompt: Sequence[int], tokens: Sequence[int], least: int
) -> Ending | None:
    keep = body.get("include_stop_str_in_output", False)
    stops = body.get("stop", [])
    stops = [stops] if isinstance(stops, str) else stops
    last, name = tokens[-1], TOKENS[tokens[-1]].decode(errors="replace")
    ends = set() if body.get("ignore_eos") else {EOS, IM_END}
    asked = body.get("stop_token_ids", [])
    if last in ends or last in asked or (last in SPECIAL and name in stops):
        assert len(tokens) > least, "an end before min_tokens"
        reason = None if last in ends else last if last in asked else name
        text = added_text(prompt, tokens if keep else tokens[:-1])
        return Ending("stop", reason, text + (name if keep and last in SPECIAL & {*stops} else ""))
    begin, rest = tokens[:least], tokens[least:]
    text = added_text([*prompt, *begin], rest).rstrip(_NO_CHARACTER)
    found = [(text.find(stop), -len(stop), stop) for stop in stops if stop in text]
    if not rest or not found:
        return None
    at, _, stop = min(found)
    return Ending("stop", stop, added_text(prompt, begin) + text[:at] + (stop if keep else ""))


def has_form(body: Mapping[str, Any]) -> bool:
    """Whether an answer may end where its form does."""
    return form_of(body) is not None or must_call(body)


def form_of(body: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The kind of the form that is asked for, by vLLM's names, and what it says."""
    form = body.get("response_format", {})
    if form.get("type") == "json_schema":
        return "json", form["json_schema"]["schema"]
    if form.get("type") == "json_object":
        return "json_object", True
    kinds = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
    asked = body.get("structured_outputs", {})
    asked = asked | {name.removeprefix("guided_"): value for name, value in body.items()}
    return next(((kind, asked[kind]) for kind in kinds if asked.get(kind)), None)


def must_call(body: Mapping[str, Any]) -> bool:
    """Whether the answer is to be a call."""
    return body.get("tool_choice", "auto") not in ("none", "auto")


def has_token_ids(body: Mapping[str, Any]) -> bool:
    """Whether the result has them: asked for, or given."""
    prompt = body.get("prompt", "")
    given = isinstance(prompt, list) and isinstance(prompt[0], int | list)
    return body.get("return_token_ids", given)


def calls_in(
    body: Mapping[str, Any], tokens: Sequence[int], ending: Ending
) -> tuple[str | None, list[Call]]:
    """Content and calls of an answer to a chat."""
    if not body.get("tools") or body.get("tool_choice") == "none" or form_of(body):
        return ending.text, []
    if ending.finish_reason == "stop" and tokens[-1] in SPECIAL:
        tokens = tokens[:-1]
    text = b"".join(TOKENS[token] for token in tokens).decode(errors="replace")
    found = re.findall(r"<tool_call>\s*(\{.*?\})\s*(?:</tool_call>|$)", text, re.DOTALL)
    calls = [json.loads(call) for call in found]
    if not calls:
        return ending.text, []
    if not body.get("parallel_tool_calls", True):
        calls = calls[:1]
    rest = re.sub(r"<tool_call>.*?(</tool_call>|$)", "", text, flags=re.DOTALL).strip()
    return rest or None, [(call["name"], call["arguments"]) for call in calls]
