"""The fields that give an answer a form: OpenAI's `response_format`, vLLM's of today and before."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from nspjax.errors import RequestError
from nspjax.generate.batch.field_error import FieldError
from nspjax.generate.batch.lines import shown
from nspjax.generate.structured import StructuredOutputsParams

_OF_PARAMS = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_json_object": "json_object",
    "structural_tag": "structural_tag",
}
FORM_FIELDS = (
    "response_format",
    "structured_outputs",
    *_OF_PARAMS,
    "guided_whitespace_pattern",
    "guided_decoding_backend",
)
"""`guided_decoding_backend` names a library, and there is one: it is ignored."""

_PARAMS = {field.name for field in dataclasses.fields(StructuredOutputsParams)}


@dataclasses.dataclass(frozen=True)
class AskedForm:
    """The form that a request asks for, and the field that does."""

    field: str
    params: StructuredOutputsParams


def asked_form(body: Mapping[str, Any]) -> AskedForm | None:
    """The form of the answers; None: any.

    Raises:
      FieldError: a field of another shape, or two of them.
    """
    forms = {name: _asked(name, body) for name in FORM_FIELDS if name in body}
    asked = sorted(name for name, asked in forms.items() if asked is not None)
    if len(asked) > 1:
        raise FieldError(f"{' and '.join(asked)}: an answer has one form", param=asked[1])
    if not asked:
        return None
    try:
        return AskedForm(asked[0], StructuredOutputsParams(**(forms[asked[0]] or {})))
    except RequestError as error:
        raise FieldError(f"{asked[0]}: {error}", param=asked[0]) from error


def _asked(name: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the field asks for, by names of `StructuredOutputsParams`; None: nothing."""
    value = body[name]
    if name == "response_format":
        return _response_format(value)
    if name == "structured_outputs":
        return _structured_outputs(value)
    if name not in _OF_PARAMS or value is False:
        return None
    asked = {_OF_PARAMS[name]: value}
    if "guided_whitespace_pattern" in body:
        asked["whitespace_pattern"] = body["guided_whitespace_pattern"]
    return asked


def _response_format(value: Any) -> dict[str, Any] | None:
    kind = value.get("type") if isinstance(value, dict) else None
    match kind:
        case "text":
            return None
        case "json_object":
            return {"json_object": True}
        case "json_schema":
            return {"json": _schema(value.get("json_schema"))}
        case "structural_tag":
            return {"structural_tag": {k: v for k, v in value.items() if k != "type"}}
    raise FieldError(
        '"response_format" must be {"type": "text"}, {"type": "json_object"} or {"type": '
        f'"json_schema", "json_schema": {{…}}}}, got {shown(value)}',
        param="response_format",
    )


def _schema(json_schema: Any) -> Any:
    """OpenAI's {"name": …, "schema": …, "strict": …}: kept to, strict or not."""
    schema = json_schema.get("schema") if isinstance(json_schema, dict) else None
    if not isinstance(schema, dict):
        raise FieldError(
            f'"response_format" needs {{"name": …, "schema": {{…}}}} under "json_schema", got '
            f"{shown(json_schema)}",
            param="response_format.json_schema",
        )
    for name, kind in (("name", str), ("strict", bool)):
        value = json_schema.get(name)
        if value is not None and not isinstance(value, kind):
            wanted = "a string" if kind is str else "true or false"
            raise FieldError(
                f'"{name}" of "json_schema" must be {wanted}, got {shown(value)}',
                param=f"response_format.json_schema.{name}",
            )
    return schema


def _structured_outputs(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FieldError(
            f'"structured_outputs" must be an object, got {shown(value)}',
            param="structured_outputs",
        )
    unknown = value.keys() - _PARAMS - {"disable_fallback"}  # to another of vLLM's libraries
    if unknown:
        raise FieldError(
            f'"structured_outputs" has no field {shown(min(unknown))}', param="structured_outputs"
        )
    return {name: each for name, each in value.items() if name in _PARAMS and each is not None}
