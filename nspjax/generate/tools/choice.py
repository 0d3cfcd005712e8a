"""What a request says of tools: which may be called, and whether one must be."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from nspjax.errors import RequestError
from nspjax.generate.tools.formats import Function

_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclasses.dataclass(frozen=True)
class Tools:
    """The functions that may be called, of which one must be if `required`. several: in one
    answer."""

    functions: tuple[Function, ...]
    required: bool = False
    several: bool = True


def tools_of(tools: Any, choice: Any = None, parallel: Any = True) -> Tools | None:
    """OpenAI's `tools`, `tool_choice` and `parallel_tool_calls`; None: no function may be called.

    Raises:
      RequestError: one of them is of another form, or names a function that is not there.
    """
    if not isinstance(parallel, bool):
        raise _wrong("parallel_tool_calls", "true or false", parallel)
    functions = _functions(tools)
    named = _named(choice)
    if named is None and choice not in (None, "none", "auto", "required"):
        raise _wrong("tool_choice", f"none, auto, required or {_NAMED}", choice)
    if choice in (None, "none", "auto"):
        return Tools(functions, several=parallel) if functions and choice != "none" else None
    if not functions:
        raise RequestError('"tool_choice" needs "tools": there are none', param="tool_choice")
    if named is not None:
        functions = tuple(function for function in functions if function.name == named)
        if not functions:
            raise RequestError(
                f'"tool_choice" names {reprlib.repr(named)}: there is no such tool',
                param="tool_choice",
            )
    return Tools(functions, required=True, several=parallel and named is None)


_NAMED = '{"type": "function", "function": {"name": …}}'


def _functions(tools: Any) -> tuple[Function, ...]:
    if not isinstance(tools, Sequence | None) or isinstance(tools, str):
        raise _wrong("tools", "a list of objects", tools)
    return tuple(_function(tool, f"tools[{i}]") for i, tool in enumerate(tools or ()))


def _function(tool: Any, where: str) -> Function:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    function = function if isinstance(function, Mapping) else {}
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise _wrong(where, _NAMED, tool)
    parameters = function.get("parameters")
    if parameters is None:
        parameters = _NO_ARGUMENTS
    if not isinstance(parameters, Mapping):
        raise _wrong(f"{where}.function.parameters", "a JSON schema", parameters)
    return Function(name, parameters)


def _named(choice: Any) -> str | None:
    if not isinstance(choice, Mapping) or choice.get("type") != "function":
        return None
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None


def _wrong(param: str, wanted: str, value: Any) -> RequestError:
    return RequestError(f'"{param}" must be {wanted}, got {reprlib.repr(value)}', param=param)
