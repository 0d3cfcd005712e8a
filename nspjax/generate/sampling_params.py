"""`SamplingParams`: how one request's tokens are chosen and when it ends. vLLM's names."""

from __future__ import annotations

import dataclasses
import math
import numbers
import reprlib
from collections.abc import Sequence
from typing import Any

from nspjax.errors import RequestError
from nspjax.generate.structured.params import StructuredOutputsParams

GREEDY_BELOW = 1e-5
"""A temperature below this is greedy: dividing by it would only overflow."""

MAX_CHOICES = 64
"""The most completions (`n`) of one request."""


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """What may be said about one request. Bad values raise `RequestError` at once.

    max_tokens: the most tokens to generate, >= 1; the context may end it earlier.
      None: up to the end of the context.
    temperature: divides the logits, >= 0; 0 takes the most likely token (greedy).
    top_k: only the k most likely tokens count; 0 or -1: all.
    top_p: only the smallest set of most likely tokens whose probability reaches this, in (0, 1].
    min_p: only tokens at least this times as probable as the most likely one, in [0, 1].
    stop: texts that end the answer; they are not part of it.
    stop_token_ids: tokens that end the answer, besides the model's own end tokens.
    ignore_eos: go on after the model's end tokens.
    seed: the same seed, prompt and settings give the same answer, whatever runs beside it.
      None: drawn anew for each request.
    n: how many answers; answer i is drawn with seed + i.
    structured_outputs: the form that the answer must have, such as JSON of a schema.
    """

    max_tokens: int | None = 16
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    seed: int | None = None
    n: int = 1
    structured_outputs: StructuredOutputsParams | None = None

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _integer("max_tokens", self.max_tokens, 1, None)
        _real("temperature", self.temperature, 0.0, None)
        _integer("top_k", self.top_k, -1, None)
        _real("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _real("min_p", self.min_p, 0.0, 1.0)
        if not isinstance(self.ignore_eos, bool):
            raise RequestError(f"ignore_eos must be true or false, got {self.ignore_eos!r}")
        if self.seed is not None:
            _integer("seed", self.seed, -(2**63), 2**63 - 1)
        _integer("n", self.n, 1, MAX_CHOICES)
        if self.n > 1 and self.greedy:
            raise RequestError(
                f"n must be 1 with temperature 0 (all answers would be the same), got n={self.n}"
            )
        form = self.structured_outputs
        if form is not None and not isinstance(form, StructuredOutputsParams):
            raise RequestError(
                f"structured_outputs must be StructuredOutputsParams, got {reprlib.repr(form)}"
            )
        object.__setattr__(self, "stop", _stop_texts(self.stop))
        object.__setattr__(self, "stop_token_ids", _token_ids(self.stop_token_ids))

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """`stop` as a tuple, whichever way it was given."""
        return _stop_texts(self.stop)


def _integer(name: str, value: Any, low: int, high: int | None) -> None:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not low <= int(value) <= (math.inf if high is None else high):
        allowed = f"an integer >= {low}" if high is None else f"an integer in [{low}, {high}]"
        raise RequestError(f"{name} must be {allowed}, got {value!r}")


def _real(name: str, value: Any, low: float, high: float | None, *, open_low: bool = False) -> None:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    number = number and _is_finite_float(value) and not (open_low and float(value) == low)
    if not number or not low <= float(value) <= (math.inf if high is None else high):
        bracket = "(" if open_low else "["
        allowed = f"a number >= {low:g}" if high is None else f"in {bracket}{low:g}, {high:g}]"
        raise RequestError(f"{name} must be {allowed}, got {value!r}")


def _is_finite_float(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _stop_texts(stop: Any) -> tuple[str, ...]:
    texts = (stop,) if isinstance(stop, str) else stop
    texts = () if texts is None else texts
    if not isinstance(texts, list | tuple) or not all(isinstance(s, str) and s for s in texts):
        raise RequestError(f"stop must be a non-empty text or a list of such, got {stop!r}")
    return tuple(texts)


def _token_ids(ids: Any) -> tuple[int, ...]:
    ids = () if ids is None else ids
    if not isinstance(ids, list | tuple):
        raise RequestError(f"stop_token_ids must be a list of token ids, got {ids!r}")
    for token in ids:
        _integer("each of stop_token_ids", token, 0, None)
    return tuple(int(token) for token in ids)
