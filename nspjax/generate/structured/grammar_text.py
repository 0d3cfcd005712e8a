"""What an answer must be like, as a grammar in llguidance's own notation. Text to text."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any

from nspjax.generate.structured.library import GrammarError, llguidance, refused
from nspjax.generate.structured.params import StructuredOutputsParams

MOST_CHARACTERS = 1 << 20
"""Of a schema, a grammar or all choices together. What is longer takes seconds to be refused."""
WHITESPACE = r" |\n {0,32}"
"""Between JSON's tokens: what json.dumps writes with or without an indent. Without a bound, a model
may write nothing but spaces."""


def grammar_text(params: StructuredOutputsParams, special_tokens: Container[str] = ()) -> str:
    """The grammar of the answers that `params` allows.

    special_tokens: the contents of the tokenizer's, which are tokens where they are triggers.

    Raises:
      GrammarError: it cannot be read, or is too long. What is wrong with its rules is found when
        it is compiled.
    """
    value = getattr(params, params.kind)
    _check_length(params.kind, value)
    library = llguidance()
    match params.kind:
        case "json":
            schema = _json_value("json", value)
            if params.disable_additional_properties:
                schema = _closed(schema)
            return _json_grammar(schema, params)
        case "json_object":
            return _json_grammar({"type": "object"}, params)
        case "regex":
            return library.LLMatcher.grammar_from_regex(value)
        case "choice":
            return library.grammar_from("lark", choice_rules(value))
        case "grammar":
            try:
                return library.grammar_from("grammar", value)
            except (ValueError, RecursionError) as error:
                raise refused("the grammar cannot be read", str(error)) from error
        case _:
            tag = _json_value("structural_tag", value)
            return library.grammar_from("lark", _tag_rules(tag, special_tokens))


def choice_rules(texts: Any) -> str:
    """Lark rules for one of several texts."""
    return "start: " + " | ".join(quoted(text) for text in texts)


def quoted(text: str) -> str:
    """A text as Lark writes it."""
    return json.dumps(text, ensure_ascii=False)


def json_rule(schema: Mapping[str, Any]) -> str:
    """A schema as a part of Lark rules, with a space or none between JSON's tokens."""
    spaced = {**schema, "x-guidance": {"whitespace_pattern": " "}}
    return "%json " + json.dumps(spaced, ensure_ascii=False)


def _json_grammar(schema: Any, params: StructuredOutputsParams) -> str:
    options: dict[str, Any] = {"lenient": False, "coerce_one_of": False}
    if params.disable_any_whitespace:
        options["whitespace_flexible"] = False
    else:
        options["whitespace_pattern"] = params.whitespace_pattern or WHITESPACE
    try:
        return llguidance().LLMatcher.grammar_from_json_schema(
            json.dumps(schema), overrides=options
        )
    except (ValueError, RecursionError) as error:
        raise refused("the JSON schema cannot be read", str(error)) from error


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


def _tag(begin: str, schema: Any, end: str, triggers: list[str]) -> Any:
    trigger = next((each for each in triggers if begin.startswith(each)), None)
    if trigger is None:
        raise ValueError(f"{begin!r} starts with no trigger")
    schema = {**schema, "x-guidance": {"whitespace_pattern": WHITESPACE}}
    return llguidance().StructTag(trigger=trigger, begin=begin, grammar=schema, end=end)
