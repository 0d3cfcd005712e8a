"""Checks of single values; each raises `RequestError` with the field's name as `param`."""

from __future__ import annotations

import math
import numbers
from typing import Any

from nspjax.errors import RequestError


def boolean(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise RequestError(f"{name} must be true or false, got {value!r}", param=name)


def integer(name: str, value: Any, low: int, high: int | None, what: str | None = None) -> None:
    """what: how the message begins, if not with the field's name."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not low <= int(value) <= (math.inf if high is None else high):
        allowed = f"an integer >= {low}" if high is None else f"an integer in [{low}, {high}]"
        raise RequestError(f"{what or name} must be {allowed}, got {value!r}", param=name)


def real(name: str, value: Any, low: float, high: float | None, *, open_low: bool = False) -> None:
    """A finite number; high: None where it may be as large as it likes."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    number = number and _is_finite_float(value) and not (open_low and float(value) == low)
    if not number or not low <= float(value) <= (math.inf if high is None else high):
        bracket, more = ("(", ">") if open_low else ("[", ">=")
        allowed = f"a number {more} {low:g}" if high is None else f"in {bracket}{low:g}, {high:g}]"
        if low == -math.inf:
            allowed = "a finite number"
        raise RequestError(f"{name} must be {allowed}, got {value!r}", param=name)


def texts(name: str, value: Any) -> tuple[str, ...]:
    """A text or a list of texts, as a tuple; none of them is empty."""
    found = (value,) if isinstance(value, str) else value
    found = () if found is None else found
    if not isinstance(found, list | tuple) or not all(isinstance(s, str) and s for s in found):
        raise RequestError(
            f"{name} must be a non-empty text or a list of such, got {value!r}", param=name
        )
    return tuple(found)


def token_ids(name: str, ids: Any) -> tuple[int, ...]:
    """A list of tokens, as a tuple."""
    ids = () if ids is None else ids
    if not isinstance(ids, list | tuple):
        raise RequestError(f"{name} must be a list of token ids, got {ids!r}", param=name)
    for token in ids:
        integer(name, token, 0, None, f"each of {name}")
    return tuple(int(token) for token in ids)


def biases(name: str, value: Any) -> dict[int, float]:
    """Token ids, or such as text, as JSON has them, -> numbers in [-100, 100]."""
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise RequestError(f"{name} must map token ids to numbers, got {value!r}", param=name)
    found = {}
    for token, bias in value.items():
        written = isinstance(token, str) and token.isascii() and token.isdigit()
        token_id = int(token) if written else token
        integer(name, token_id, 0, None, f"each token of {name}")
        try:
            real(name, bias, -100, 100)
        except RequestError:
            raise RequestError(
                f"{name}[{token}] must be a number in [-100, 100], got {bias!r}", param=name
            ) from None
        found[int(token_id)] = float(bias)
    return found


def _is_finite_float(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False
