"""`SamplingParams`: how one request's tokens are chosen and when it ends. vLLM's names."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Mapping, Sequence

from nspjax.errors import RequestError
from nspjax.generate.sampling import checks
from nspjax.generate.structured.params import StructuredOutputsParams

GREEDY_BELOW = 1e-5
"""A temperature below this is greedy: dividing by it would only overflow."""

MAX_CHOICES = 128
"""The most completions (`n`) of one request."""

MAX_LOGPROBS = 20
"""The most likely tokens whose logprobs can be had."""


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """What may be said about one request. Bad values raise `RequestError` at once.

    max_tokens: the most tokens to generate, >= 1; the context may end it earlier.
      None: up to the end of the context.
    min_tokens: before this many, no end token, stop token or stop text ends the answer.
    temperature: divides the logits, >= 0; 0 takes the most likely token (greedy).
    top_k: only the k most likely tokens count; 0 or -1: all.
    top_p: only the smallest set of most likely tokens whose probability reaches this, in (0, 1].
    min_p: only tokens at least this times as probable as the most likely one, in [0, 1].
    presence_penalty, frequency_penalty: what a token's logit loses if the answer has the token, and
      for each time that it has it, in [-2, 2].
    repetition_penalty: divides the logits > 0 of tokens that prompt or answer have, and multiplies
      those < 0; > 0, 1 for none.
    logit_bias: token id -> what is added to its logit, in [-100, 100].
    allowed_token_ids: only these tokens count; None: all.
    bad_words: texts that the answer must not have, with or without a space before them: their last
      token is barred where the ones before it stand.
    stop: texts that end the answer; they are not part of it.
    stop_token_ids: tokens that end the answer, besides the model's own end tokens.
    include_stop_str_in_output: the text that ended the answer is part of it.
    ignore_eos: go on after the model's end tokens.
    seed: the same seed, prompt and settings give the same answer, whatever runs beside it.
      None: drawn anew for each request.
    n: how many answers; answer i is drawn with seed + i.
    logprobs: with each token its logprob, and those of so many most likely ones, in [0, 20]: of the
      model's own logits, before penalties, temperature and all else. None: none.
    prompt_logprobs: the same for the tokens of the prompt; a prompt of which they are asked is
      computed as a whole, whatever it shares with others.
    truncate_prompt_tokens: keep so many tokens of the prompt, its last ones; -1: as many as leave
      room for max_tokens. None: all.
    structured_outputs: the form that the answer must have, such as JSON of a schema.
    """

    max_tokens: int | None = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] | None = dataclasses.field(default=None, hash=False)
    allowed_token_ids: Sequence[int] | None = None
    bad_words: str | Sequence[str] = ()
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    seed: int | None = None
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: int | None = None
    structured_outputs: StructuredOutputsParams | None = None

    def __post_init__(self) -> None:
        self._check_length()
        self._check_numbers()
        for name in ("ignore_eos", "include_stop_str_in_output"):
            checks.boolean(name, getattr(self, name))
        for name in ("stop", "bad_words"):
            object.__setattr__(self, name, checks.texts(name, getattr(self, name)))
        form = self.structured_outputs
        if form is not None and not isinstance(form, StructuredOutputsParams):
            raise RequestError(
                f"structured_outputs must be StructuredOutputsParams, got {reprlib.repr(form)}",
                param="structured_outputs",
            )
        stop_ids = checks.token_ids("stop_token_ids", self.stop_token_ids)
        object.__setattr__(self, "stop_token_ids", stop_ids)
        if self.allowed_token_ids is not None:
            ids = checks.token_ids("allowed_token_ids", self.allowed_token_ids)
            if not ids:
                raise RequestError(
                    "allowed_token_ids is empty: name one token at least, or leave it out",
                    param="allowed_token_ids",
                )
            object.__setattr__(self, "allowed_token_ids", ids)
        object.__setattr__(self, "logit_bias", checks.biases("logit_bias", self.logit_bias))

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """`stop` as a tuple, whichever way it was given."""
        return checks.texts("stop", self.stop)

    @property
    def penalizes(self) -> bool:
        """Whether what was said before counts."""
        nothing = (0.0, 0.0, 1.0)
        return nothing != (self.presence_penalty, self.frequency_penalty, self.repetition_penalty)

    def _check_length(self) -> None:
        if self.max_tokens is not None:
            checks.integer("max_tokens", self.max_tokens, 1, None)
        checks.integer("min_tokens", self.min_tokens, 0, None)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens must be at most max_tokens, {self.max_tokens}, got {self.min_tokens}",
                param="min_tokens",
            )
        kept = self.truncate_prompt_tokens
        if kept is not None and kept != -1:
            checks.integer("truncate_prompt_tokens", kept, 1, None)

    def _check_numbers(self) -> None:
        checks.real("temperature", self.temperature, 0.0, None)
        checks.integer("top_k", self.top_k, -1, None)
        checks.real("top_p", self.top_p, 0.0, 1.0, open_low=True)
        checks.real("min_p", self.min_p, 0.0, 1.0)
        checks.real("presence_penalty", self.presence_penalty, -2.0, 2.0)
        checks.real("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        checks.real("repetition_penalty", self.repetition_penalty, 0.0, None, open_low=True)
        if self.seed is not None:
            checks.integer("seed", self.seed, -(2**63), 2**63 - 1)
        checks.integer("n", self.n, 1, MAX_CHOICES)
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                checks.integer(name, getattr(self, name), 0, MAX_LOGPROBS)
