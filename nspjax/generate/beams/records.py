"""What goes into a beam search and what comes out, in vLLM's names."""

from __future__ import annotations

import dataclasses
import math

from nspjax.errors import RequestError

MOST_BEAMS = 64


@dataclasses.dataclass(frozen=True)
class BeamSearchParams:
    """How prompts are searched for. Bad values raise `RequestError` at once.

    beam_width: how many sequences are kept at each step, and returned.
    max_tokens: the most tokens to generate; the context may end it earlier.
    ignore_eos: the model's end tokens are tokens like others.
    temperature: divides the logits; 0, as 1, leaves them as they are.
    length_penalty: sequences are ranked by their summed log-probability over their number of
      generated tokens to this power: above 0 it favours long ones.
    include_stop_str_in_output: whether the tokens have the end token, which the text never has.
    """

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        for name, most in (("beam_width", MOST_BEAMS), ("max_tokens", 2**31 - 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise RequestError(f"{name} must be an integer from 1 to {most}, got {value!r}")
        for name, least in (("temperature", 0.0), ("length_penalty", -math.inf)):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not math.isfinite(value) or value < least:
                raise RequestError(f"{name} must be a number, temperature >= 0, got {value!r}")


@dataclasses.dataclass(frozen=True)
class BeamSearchSequence:
    """One sequence that was found.

    tokens: the prompt's, then the generated ones; text: theirs, without special tokens, "" without
    a tokenizer; cum_logprob: the sum over the generated ones, the end token included;
    finish_reason: "stop" (an end token) or "length".
    """

    tokens: tuple[int, ...]
    cum_logprob: float
    text: str
    finish_reason: str


@dataclasses.dataclass(frozen=True)
class BeamSearchOutput:
    """The sequences of one prompt, the best first."""

    sequences: tuple[BeamSearchSequence, ...]
