"""Rendering a conversation with the checkpoint's own Jinja template, as transformers does."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nspjax.errors import CheckpointError, RequestError


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """A chat template and the texts of the special tokens that it may name."""

    source: str
    special_tokens: Mapping[str, str]

    @staticmethod
    def load(directory: Path) -> ChatTemplate | None:
        """The template of a checkpoint directory, None where it has none.

        It is chat_template.jinja, or `chat_template` in tokenizer_config.json: a text, or a list
        of named ones of which "default" is taken.

        Raises:
          CheckpointError: tokenizer_config.json is not a JSON object.
        """
        settings = _read_object(directory / "tokenizer_config.json")
        source: Any = settings.get("chat_template")
        if isinstance(source, list):
            named = {item.get("name"): item.get("template") for item in source}
            source = named.get("default")
        own_file = directory / "chat_template.jinja"
        if own_file.exists():
            source = own_file.read_text(encoding="utf-8")
        if not isinstance(source, str):
            return None
        tokens = {**_read_object(directory / "special_tokens_map.json"), **settings}
        return ChatTemplate(source, {
            name: text for name, value in tokens.items()
            if name.endswith("_token") and (text := _token_text(value)) is not None
        })  # fmt: skip

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> str:
        """The prompt text of a conversation. The template runs in a sandbox.

        messages: [{"role": ..., "content": text or [{"type": "text", "text": ...}, ...]}, ...].

        Raises:
          RequestError: messages of another form, or which the template refuses; jinja2 missing.
        """
        try:
            import jinja2
            from jinja2.ext import loopcontrols
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise RequestError(
                "chat templates need the package jinja2: pip install 'nspjax[hf]'"
            ) from error

        def refuse(message: str) -> None:
            raise jinja2.TemplateError(message)

        checked = [_message(index, message) for index, message in enumerate(_list(messages))]
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        try:
            return environment.from_string(self.source).render(
                messages=checked,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self.special_tokens,
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            raise RequestError(
                f"the model's chat template refuses the messages: {error}"
            ) from error


def _read_object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def _token_text(value: Any) -> str | None:
    if isinstance(value, Mapping):  # an AddedToken written out
        value = value.get("content")
    return value if isinstance(value, str) else None


def _list(messages: Any) -> list[Any]:
    if not isinstance(messages, list | tuple) or not messages:
        raise RequestError(f"messages must be a list of at least one message, got {messages!r}")
    return list(messages)


def _message(index: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise RequestError(f'messages[{index}] must be an object with a "role", got {message!r}')
    content = message.get("content")
    if isinstance(content, list | tuple):
        parts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
            for part in content
        ]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) < len(parts):
            raise RequestError(f"messages[{index}].content holds a part that is not text")
        content = "\n".join(texts)
    if content is not None and not isinstance(content, str):
        raise RequestError(f"messages[{index}].content must be text, got {content!r}")
    return {**message, "content": content}


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
