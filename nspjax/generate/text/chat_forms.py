"""The forms in which a chat template understands a conversation.

OpenAI's messages may say the same in several ways, and a template is written for one or some of
them: content as text or as a list of parts, no content as null or as no field, a tool call's
arguments as JSON text or as an object. A form that a template was not written for often fails in
silence: text is left out, or written as Python writes a dict. So the template is tried.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

Message = dict[str, Any]
Render = Callable[[Sequence[Message]], str]
"""A template with everything but its messages."""

_JOINT = "\n"
"""Between parts that become one text; vLLM's."""


@dataclasses.dataclass
class ContentForms:
    """Which forms of content a template shows, as found out so far: {role: {"text", "parts"}}."""

    shown: dict[str, set[str]] = dataclasses.field(default_factory=dict)

    def learn(self, render: Render, messages: Sequence[Message]) -> None:
        """Try the roles in `messages` that are not known yet, in this very conversation."""
        roles = {m["role"] for m in messages if m.get("content") is not None} - self.shown.keys()
        if not roles:
            return
        marks = {role: f"7304{i}5928" for i, role in enumerate(sorted(roles))}
        known = [self.fitting(message) for message in messages]
        as_text = _tried(render, [_marked(message, marks, _as_it_is) for message in known])
        as_parts = _tried(render, [_marked(message, marks, _as_parts) for message in known])
        for role, mark in marks.items():
            shown = {"text"} if mark in as_text else set()
            python = repr(_as_parts(mark)).lower()  # a template may write all in capitals
            if mark in as_parts and python not in as_parts.lower():
                shown.add("parts")
            if shown:  # otherwise this conversation does not tell
                self.shown[role] = shown

    def fitting(self, message: Message) -> Message:
        """The message with its content as it is, if the template shows that; else in the other
        form."""
        content, shown = message.get("content"), self.shown.get(message["role"], {"text"})
        if isinstance(content, str) and "text" not in shown:
            return {**message, "content": _as_parts(content)}
        if isinstance(content, list) and "parts" not in shown:
            return {**message, "content": _JOINT.join(part["text"] for part in content)}
        return message


def render_fitting(render: Render, messages: Sequence[Message], forms: ContentForms) -> str:
    """The conversation's text, in the likeliest form that the template writes well.

    Raises:
      Exception: what the template raised at the likeliest form, where it takes none.
    """
    forms.learn(render, next(_readings(messages)))
    failure: Exception | None = None
    texts = []
    for reading in _readings([forms.fitting(message) for message in messages]):
        try:
            text = render(reading)
        except Exception as error:
            failure = failure or error
            continue
        if not _shows_python(text, reading, render):
            return text
        texts.append(text)
    if texts:
        return texts[0]
    assert failure is not None
    raise failure


def _readings(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The same conversation in all forms of no content and of arguments, the likeliest first:
    transformers leaves null fields out, and its templates expect arguments that are objects."""
    nulls: list[Message] = [{}]
    if any(message.get("content") is None for message in messages):
        nulls += [{"content": None}, {"content": ""}]
    arguments: list[Callable[[Any], Any]] = [_as_object]
    if any(message.get("tool_calls") for message in messages):
        arguments.append(_as_json)
    for write, null in itertools.product(arguments, nulls):
        yield [null | _with_arguments(_without_nulls(message), write) for message in messages]


def _without_nulls(message: Message) -> Message:
    return {name: value for name, value in message.items() if value is not None}


def _with_arguments(message: Message, write: Callable[[Any], Any]) -> Message:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return {**message, "tool_calls": [_call_with_arguments(call, write) for call in calls]}


def _call_with_arguments(call: Any, write: Callable[[Any], Any]) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or "arguments" not in function:
        return call
    return {**call, "function": {**function, "arguments": write(function["arguments"])}}


def _as_object(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments  # what a model wrote may be no JSON
    return value if isinstance(value, dict) else arguments


def _as_json(arguments: Any) -> Any:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _shows_python(text: str, messages: Sequence[Message], render: Render) -> bool:
    """Whether the template wrote arguments or a missing content as Python does."""
    for arguments in _all_arguments(messages):
        written = repr(arguments)
        if isinstance(arguments, dict) and written != _as_json(arguments) and written in text:
            return True
    if all(message.get("content", "") is not None for message in messages) or "None" not in text:
        return False
    blank = [m if m.get("content", "") is not None else {**m, "content": ""} for m in messages]
    return text.count("None") > _tried(render, blank).count("None")


def _all_arguments(messages: Sequence[Message]) -> Iterator[Any]:
    for message in messages:
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            function = call.get("function") if isinstance(call, dict) else None
            if isinstance(function, dict):
                yield function.get("arguments")


def _marked(message: Message, marks: dict[str, str], form: Callable[[str], Any]) -> Message:
    """The message with its role's mark in the place of its content."""
    if message.get("content") is None or message["role"] not in marks:
        return message
    return {**message, "content": form(marks[message["role"]])}


def _as_it_is(text: str) -> str:
    return text


def _as_parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def _tried(render: Render, messages: Sequence[Message]) -> str:
    try:
        return render(messages)
    except Exception:
        return ""
