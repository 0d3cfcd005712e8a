"""What goes into a beam search and what comes out, in vLLM's names."""

from __future__ import annotations

import dataclasses
import math

from nspjax.errors import NspjaxError
from nspjax.generate.sampling import checks

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
        checks.integer("beam_width", self.beam_width, 1, MOST_BEAMS)
        checks.integer("max_tokens", self.max_tokens, 1, 2**31 - 1)
        checks.real("temperature", self.temperature, 0.0, None)
        checks.real("length_penalty", self.length_penalty, -math.inf, None)


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
    """The sequences of one prompt, the best first. error: why there are none: the logits became NaN
    or infinite, or the tokenizer fails at the tokens. Other prompts are not affected."""

    sequences: tuple[BeamSearchSequence, ...]
    error: NspjaxError | None = None
