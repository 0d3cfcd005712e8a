"""A conversation as it is asked for, checked: what every chat template may rely on."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from nspjax.errors import RequestError


def checked_messages(messages: Any) -> list[dict[str, Any]]:
    """The messages: a role each, and a content that is text, a list of text parts, or none.

    Other fields (name, tool_calls, tool_call_id, ...) are the template's to judge.

    Raises:
      RequestError: messages of another form; names the first.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise RequestError(
            f"messages must be a list of at least one message, got {reprlib.repr(messages)}",
            param="messages",
        )
    return [_message(f"messages[{i}]", message) for i, message in enumerate(messages)]


def checked_objects(name: str, objects: Any) -> list[Any] | None:
    """A list of objects, such as tools or documents.

    Raises:
      RequestError: it is none.
    """
    if objects is None:
        return None
    if not isinstance(objects, list | tuple) or not all(isinstance(o, Mapping) for o in objects):
        raise RequestError(
            f"{name} must be a list of objects, got {reprlib.repr(objects)}", param=name
        )
    return list(objects)


def _message(where: str, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RequestError(
            f'{where} must be an object with a "role", got {reprlib.repr(message)}', param=where
        )
    content = message.get("content")
    if isinstance(content, list | tuple):
        _check_parts(f"{where}.content", content)
    elif content is not None and not isinstance(content, str):
        raise RequestError(
            f"{where}.content must be text, got {reprlib.repr(content)}", param=f"{where}.content"
        )
    return dict(message)


def _check_parts(where: str, parts: Sequence[Any]) -> None:
    for part in parts:
        is_text = isinstance(part, Mapping) and part.get("type") == "text"
        if not is_text or not isinstance(part.get("text"), str):
            raise RequestError(
                f"{where} holds a part that is not text: {reprlib.repr(part)}; a part reads "
                '{"type": "text", "text": "..."}',
                param=where,
            )
