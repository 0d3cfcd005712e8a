"""What an answer must be like, as rules in Lark's notation as llguidance reads it."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any

from nspjax.generate.structured.library import GrammarError, llguidance, refused
from nspjax.generate.structured.params import StructuredOutputsParams

MOST_CHARACTERS = 1 << 18
"""Of a schema, a grammar or all choices together: twice what OpenAI takes."""
WHITESPACE = r" |\n {0,32}"
"""Between JSON's tokens: what json.dumps writes with or without an indent. Without a bound, a model
may write nothing but spaces."""
_OPTIONS = '%llguidance {"no_forcing": true}'
"""Otherwise, text about which there is no choice is cut into tokens by the tokenizer, which makes
the special token of "<|im_end|>"; and it is looked for without an end in /a{1000000000}/."""


def grammar_text(params: StructuredOutputsParams, special_tokens: Container[str] = ()) -> str:
    """Lark rules for the answers that `params` allows.

    special_tokens: the contents of the tokenizer's, which are tokens where they are triggers.

    Raises:
      GrammarError: it cannot be read, or is too long. What is wrong with its rules is found when
        it is compiled.
    """
    value = getattr(params, params.kind)
    _check_length(params.kind, value)
    match params.kind:
        case "json":
            schema = _json_value("json", value)
            if params.disable_additional_properties:
                schema = _closed(schema)
            rules = f"start: {_json_rule(schema, params)}"
        case "json_object":
            rules = f"start: {_json_rule({'type': 'object'}, params)}"
        case "regex":
            rules = f"start: /{llguidance().regex_to_lark(value, 'dw')}/"
        case "choice":
            rules = "start: " + " | ".join(quoted(text) for text in value)
        case "grammar":
            rules = _lark(value)
        case _:
            rules = _tag_rules(_json_value("structural_tag", value), special_tokens)
    return f"{rules}\n{_OPTIONS}\n"


def quoted(text: str) -> str:
    """A text as Lark writes it."""
    return json.dumps(text, ensure_ascii=False)


def json_rule(schema: Mapping[str, Any]) -> str:
    """A schema as a part of Lark rules, with a space or none between JSON's tokens."""
    return _with_options(schema, {"whitespace_pattern": " "})


def _json_rule(schema: Any, params: StructuredOutputsParams) -> str:
    if params.disable_any_whitespace:
        return _with_options(schema, {"whitespace_flexible": False})
    return _with_options(schema, {"whitespace_pattern": params.whitespace_pattern or WHITESPACE})


def _with_options(schema: Any, options: Mapping[str, Any]) -> str:
    """The schema with llguidance's options, and none of its own."""
    if not isinstance(schema, Mapping):  # true allows all, false nothing
        schema = {"allOf": [schema]}
    return "%json " + json.dumps({**schema, "x-guidance": options}, ensure_ascii=False)


def _lark(grammar: str) -> str:
    try:
        return llguidance().gbnf_to_lark.any_to_lark(grammar)
    except Exception as error:  # its own class is nothing more
        raise refused("the grammar cannot be read", str(error)) from error


def _json_value(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise refused(f"{name} must be JSON", str(error)) from error


def _check_length(kind: str, value: Any) -> None:
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise refused(f"{kind} must be of JSON values", str(error)) from error
    if len(text) > MOST_CHARACTERS:
        raise GrammarError(f"{kind} has {len(text)} characters: the most are {MOST_CHARACTERS}")


def _closed(schema: Any) -> Any:
    """The schema without properties that it does not list."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    closed = {name: _closed(each) for name, each in schema.items()}
    if "properties" in closed or "patternProperties" in closed:
        closed.setdefault("additionalProperties", False)
    return closed


def _tag_rules(tag: Any, special_tokens: Container[str]) -> str:
    """Lark rules for text with tags, as llguidance's `StructTag` makes them."""
    try:
        structures, triggers = tag["structures"], tag["triggers"]
        tags = [_tag(each["begin"], each["schema"], each["end"], triggers) for each in structures]
        are_tokens = all(each.trigger in special_tokens for each in tags)
        return llguidance().StructTag.to_grammar(tags, assume_special=are_tokens)
    except (LookupError, TypeError, AttributeError, ValueError, AssertionError) as error:
        raise GrammarError(
            'structural_tag must read {"structures": [{"begin": text, "schema": object, "end": '
            'text}, …], "triggers": [text, …]}, each begin starting with a trigger'
        ) from error


def _tag(begin: str, schema: Mapping[str, Any], end: str, triggers: list[str]) -> Any:
    trigger = next((each for each in triggers if begin.startswith(each)), None)
    if trigger is None:
        raise ValueError(f"{begin!r} starts with no trigger")
    schema = {**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}}
    return llguidance().StructTag(trigger=trigger, begin=begin, grammar=schema, end=end)
