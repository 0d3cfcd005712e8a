"""The formats in which models write calls, by vLLM's names for their parsers.

Each has two sides: `rules` makes a model write calls, and `read` finds those that it wrote. What
does not read as a call stays text.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from nspjax.errors import InvalidArgumentError
from nspjax.generate.structured.grammar_text import json_rule, quoted
from nspjax.generate.tools.calls import (
    ReadAnswer,
    ToolCall,
    call_of,
    json_at,
    skip_spaces,
    without,
)

Literal = Callable[[str], str]
"""A text of a format as Lark rules have it: a special token, where the tokenizer has one of it."""


@dataclasses.dataclass(frozen=True)
class Function:
    """One that may be called. parameters: the JSON schema of its arguments."""

    name: str
    parameters: Mapping[str, Any]


class ToolFormat(Protocol):
    """A format. name: vLLM's."""

    @property
    def name(self) -> str: ...

    def read(self, text: str) -> ReadAnswer | None:
        """The calls in an answer's text with its special tokens; None: there are none."""
        ...

    def rules(self, functions: Sequence[Function], *, several: bool, literal: Literal) -> str:
        """Lark rules for a call of one of the functions, or for one or more calls."""
        ...


@dataclasses.dataclass(frozen=True)
class Hermes:
    """<tool_call>{"name": …, "arguments": {…}}</tool_call>, any number of them: Hermes, Qwen."""

    name: str = "hermes"

    def read(self, text: str) -> ReadAnswer | None:
        calls, spans = [], []
        for found in re.finditer("<tool_call>", text):
            try:
                value, end = json_at(text, found.end())
            except (ValueError, RecursionError):
                continue
            end = skip_spaces(text, end)
            call = call_of(value, "arguments")
            if call is None or not (text.startswith("</tool_call>", end) or end == len(text)):
                continue
            calls.append(call)
            spans.append((found.start(), min(end + len("</tool_call>"), len(text))))
        return ReadAnswer(without(text, spans), tuple(calls)) if calls else None

    def rules(self, functions: Sequence[Function], *, several: bool, literal: Literal) -> str:
        opened, closed = literal("<tool_call>"), literal("</tool_call>")
        more = r' ("\n" call)*' if several else ""
        return f'start: call{more}\ncall: {opened} "\\n" object "\\n" {closed}\n' + _objects(
            functions, "arguments"
        )


@dataclasses.dataclass(frozen=True)
class Llama3Json:
    """{"name": …, "parameters": {…}}, alone or after <|python_tag|>; between several stands ;"""

    name: str = "llama3_json"

    def read(self, text: str) -> ReadAnswer | None:
        before, tag, _ = text.partition("<|python_tag|>")
        begin = len(before + tag) if tag else 0
        calls = []
        while (begin := skip_spaces(text, begin)) < len(text):
            try:
                value, begin = json_at(text, begin)
            except (ValueError, RecursionError):
                return None
            call = call_of(value, "parameters") or call_of(value, "arguments")
            if call is None:
                return None
            calls.append(call)
            begin = skip_spaces(text, begin)
            begin += text.startswith(";", begin)
        content = (before.strip() or None) if tag else None
        return ReadAnswer(content, tuple(calls)) if calls else None

    def rules(self, functions: Sequence[Function], *, several: bool, literal: Literal) -> str:
        more = ' ("; " object)*' if several else ""
        return f"start: object{more}\n" + _objects(functions, "parameters")


@dataclasses.dataclass(frozen=True)
class Mistral:
    """[TOOL_CALLS][{"name": …, "arguments": {…}}, …], or [TOOL_CALLS]name[ARGS]{…} a call.

    named: which of the two is to be written; both are read.
    """

    named: bool = False
    name: str = "mistral"

    def read(self, text: str) -> ReadAnswer | None:
        begin = end = text.find("[TOOL_CALLS]")
        calls: list[ToolCall] = []
        while begin >= 0 and text.startswith("[TOOL_CALLS]", end):
            found = self._calls_at(text, end + len("[TOOL_CALLS]"))
            if found is None:
                return None
            calls += found[0]
            end = skip_spaces(text, found[1])
        return ReadAnswer(without(text, [(begin, end)]), tuple(calls)) if calls else None

    def _calls_at(self, text: str, begin: int) -> tuple[list[ToolCall], int] | None:
        named = re.compile(r"\s*([\w.-]+)(\[CALL_ID\]\w+)?(\[ARGS\])?").match(text, begin)
        try:
            if named is not None:
                arguments, end = json_at(text, named.end())
                values = [{"name": named[1], "arguments": arguments}]
            else:
                values, end = json_at(text, begin)
        except (ValueError, RecursionError):
            return None
        calls = [call_of(v, "arguments") for v in values] if isinstance(values, list) else []
        known = [call for call in calls if call is not None]
        return (known, end) if known and len(known) == len(calls) else None

    def rules(self, functions: Sequence[Function], *, several: bool, literal: Literal) -> str:
        opened = literal("[TOOL_CALLS]")
        if self.named:
            each = [
                f"{quoted(f.name)} {literal('[ARGS]')} {json_rule(f.parameters)}" for f in functions
            ]
            call = f"call: {opened} (" + " | ".join(each) + ")\n"
            return f"start: call{'+' if several else ''}\n" + call
        more = ' (", " object)*' if several else ""
        return f'start: {opened} "[" object{more} "]"\n' + _objects(functions, "arguments")


FORMATS: Mapping[str, ToolFormat] = {
    each.name: each for each in (Hermes(), Llama3Json(), Mistral())
}


def format_named(name: str) -> ToolFormat:
    """The format of that name.

    Raises:
      InvalidArgumentError: there is none.
    """
    if name not in FORMATS:
        raise InvalidArgumentError(
            f"no format of tool calls is called {name!r}: there are {', '.join(FORMATS)}"
        )
    return FORMATS[name]


def format_in(template: str) -> ToolFormat | None:
    """The format that a chat template writes calls in; None: none that is known."""
    if "[TOOL_CALLS]" in template:
        return Mistral(named="[ARGS]" in template)
    if "<tool_call>" in template:
        # <function=…> and <arg_key> are formats of XML, between the same tags
        xml = "<function=" in template or "<arg_key>" in template
        return None if xml else FORMATS["hermes"]
    is_llama = "<|start_header_id|>" in template and '"parameters": ' in template
    if is_llama or "<|python_tag|>" in template:
        return FORMATS["llama3_json"]
    return None


def _objects(functions: Sequence[Function], arguments_key: str) -> str:
    """Rules for `object`: a call of one of the functions, spaced as json.dumps does."""
    each = []
    for function in functions:
        before = f'{{"name": {json.dumps(function.name)}, "{arguments_key}": '
        each.append(f'{quoted(before)} {json_rule(function.parameters)} "}}"')
    return "object: " + "\n  | ".join(each) + "\n"
