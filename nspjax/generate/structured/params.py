"""`StructuredOutputsParams`: the form that an answer must have. vLLM's names."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from nspjax.errors import RequestError

KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
"""The fields of which exactly one is given."""


@dataclasses.dataclass(frozen=True)
class StructuredOutputsParams:
    """One of the first six fields says the form. Bad values raise `RequestError` at once; a schema
    or a grammar is read when the request is.

    json: a JSON schema, as an object or as text.
    regex: the whole answer matches it; no look-around, no back-references.
    choice: the answer is one of these texts.
    grammar: in Lark's syntax or llama.cpp's GBNF; the first rule is `start` or `root`.
    json_object: any JSON object.
    structural_tag: text in which, after a trigger, what a schema says must follow:
      {"structures": [{"begin": …, "schema": …, "end": …}, …], "triggers": […]}.
    disable_any_whitespace: JSON has no space between its tokens.
    disable_additional_properties: where a schema lists an object's properties and says nothing of
      others, there are none.
    whitespace_pattern: a regular expression for what may stand between JSON's tokens; None: a
      space, or a new line and its indent.
    """

    json: str | Mapping[str, Any] | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | Mapping[str, Any] | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None

    def __post_init__(self) -> None:
        given = [name for name in KINDS if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            raise RequestError(
                f"structured outputs need exactly one of {', '.join(KINDS)}; got "
                + (" and ".join(given) or "none")
            )
        for name in KINDS:
            value = getattr(self, name)
            wanted, is_right = _FORMS[name]
            if value is not None and not is_right(value):
                raise _wrong(name, wanted, value)
        for name in ("disable_any_whitespace", "disable_additional_properties"):
            if not isinstance(getattr(self, name), bool):
                raise _wrong(name, "true or false", getattr(self, name))
        if not isinstance(self.whitespace_pattern, str | None):
            raise _wrong("whitespace_pattern", "a regular expression", self.whitespace_pattern)

    @property
    def kind(self) -> str:
        """The one of `KINDS` that is given."""
        return next(name for name in KINDS if getattr(self, name) not in (None, False))


def _is_choice(value: Any) -> bool:
    is_list = isinstance(value, list | tuple) and bool(value)
    return is_list and all(isinstance(text, str) and text for text in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


_FORMS = {
    "json": ("a JSON schema, an object or its text", lambda v: isinstance(v, str | Mapping)),
    "regex": ("a text that is not empty", _is_text),
    "choice": ("a list of texts that are not empty", _is_choice),
    "grammar": ("a text that is not empty", _is_text),
    "json_object": ("true or false", lambda v: isinstance(v, bool)),
    "structural_tag": ("an object or its text", lambda v: isinstance(v, str | Mapping)),
}


def _wrong(name: str, wanted: str, value: Any) -> RequestError:
    return RequestError(f"{name} must be {wanted}, got {reprlib.repr(value)}")
