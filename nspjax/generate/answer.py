"""One answer in the making: its tokens so far, and what ends it. Host side, no JAX."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nspjax.errors import NspjaxError, RequestError
from nspjax.generate.logprob_records import LogprobRecords
from nspjax.generate.outputs import CompletionOutput, Logprob
from nspjax.generate.sampling.request_terms import RequestTerms
from nspjax.generate.sampling_params import SamplingParams
from nspjax.generate.text.stop_texts import StopTexts, StopWatch
from nspjax.generate.text.token_texts import TokenTexts
from nspjax.generate.text.tokenization import answer_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from nspjax.generate.sampling.logprobs import Logprobs


class Answer:
    """Answer `index` of a request. `accept` is the one place that decides when it ends.

    prompt: its token ids; max_tokens: what params and the context allow; end_tokens: the model's;
    seed: of the request, to which the index is added. tokenizer: None gives answers without text.
    stops: the request's stop texts, None where it has none. terms: what it asks of the logits.
    request_id: for traces.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        index: int,
        seed: int,
        max_tokens: int,
        end_tokens: Sequence[int],
        tokenizer: PreTrainedTokenizerBase | None,
        stops: StopTexts | None = None,
        terms: RequestTerms | None = None,
        request_id: str = "",
    ) -> None:
        self.request_id = request_id
        self.prompt = prompt
        self.params = params
        self.max_tokens = max_tokens
        self.token_ids: list[int] = []
        self.error: NspjaxError | None = None
        self._index = index
        self._seed = (seed + index) % 2**64
        self._end_tokens = frozenset(() if params.ignore_eos else end_tokens)
        self._tokenizer = tokenizer
        self._stops = stops
        self._watch: StopWatch | None = None
        self.terms = terms or RequestTerms()
        self._mask = self.terms.new_mask() if self.terms.new_mask else None
        self._logprobs = _records(params.logprobs)
        self._prompt_logprobs = _records(params.prompt_logprobs if index == 0 else None)
        self._ended_by_token = False
        self._text_at_stop: str | None = None
        self._finish_reason = ""
        self._stop_reason: int | str | None = None

    @property
    def key_words(self) -> tuple[int, int]:
        """The two 32-bit words of the random key."""
        return self._seed >> 32, self._seed & 0xFFFFFFFF

    @property
    def stop_tokens(self) -> list[int]:
        """All tokens that end the answer, the model's end tokens first."""
        asked = {*self.params.stop_token_ids, *self._texts_that_are_tokens}
        return sorted(self._end_tokens) + sorted(asked - self._end_tokens)

    @property
    def finished(self) -> bool:
        return bool(self._finish_reason)

    @property
    def asks_more(self) -> bool:
        """Whether it asks for more than `Sampling` says."""
        return self._logprobs is not None or self.terms.asks

    @property
    def scores_prompt(self) -> bool:
        """Whether the logprobs of its prompt are asked for."""
        return self._prompt_logprobs is not None

    @property
    def mask_changes(self) -> bool:
        """Whether `allowed` depends on the tokens so far."""
        return self._mask is not None

    def allowed(self) -> np.ndarray | None:
        """The tokens that may come next, packed (see `token_mask`); None: all."""
        always = self.terms.allowed
        if self._mask is None:
            return always
        try:
            now = self._mask.allowed()
        except RequestError as error:
            self.fail(error)
            return always
        return now if always is None else now & always

    def add_logprobs(self, logprobs: Logprobs) -> None:
        """Of the tokens that come next, arrays [n, ...]."""
        if self._logprobs is not None:
            self._logprobs.put(len(self.token_ids), logprobs)

    def add_prompt_logprobs(self, start: int, logprobs: Logprobs) -> bool:
        """Of the prompt's tokens after place `start`, arrays [n, ...]. Returns whether they are
        finite."""
        return self._prompt_logprobs is None or self._prompt_logprobs.put(start, logprobs)

    def accept(self, token: int) -> bool:
        """Append the next token. Returns whether the answer has ended with it."""
        if self.finished:  # its mask failed
            return True
        self.token_ids.append(token)
        if token in self._end_tokens:
            self._end_with_token(None)
        elif token in self.params.stop_token_ids:
            self._end_with_token(token)
        elif token in self._texts_that_are_tokens:
            self._end_with_token(self._texts_that_are_tokens[token])
        elif self._completes_stop_text() or self._completes_mask(token):
            pass
        elif len(self.token_ids) >= self.max_tokens:
            self._finish("length", None)
        return self.finished

    def fail(self, error: NspjaxError) -> None:
        """End the answer without one."""
        self.error = error
        self._finish("error", None)

    def restart(self) -> None:
        """Forget the tokens: the same ones come again."""
        self.token_ids.clear()
        self._watch = None
        self._mask = self.terms.new_mask() if self.terms.new_mask else None

    def output(self, token_texts: TokenTexts) -> CompletionOutput:
        """The finished answer.

        Raises:
          RequestError: the tokenizer fails at its tokens.
        """
        logprobs = self._logprobs
        return CompletionOutput(
            self._index,
            self._text(),
            tuple(self.token_ids),
            self._finish_reason,
            self._stop_reason,
            None if logprobs is None else logprobs.total(len(self.token_ids)),
            None if logprobs is None else logprobs.of(self.token_ids, token_texts),
        )

    def prompt_logprobs(
        self, token_texts: TokenTexts
    ) -> tuple[dict[int, Logprob] | None, ...] | None:
        """Of the prompt's tokens, None in the first one's place; None: they were not asked for.

        Raises:
          RequestError: the tokenizer fails at one of them.
        """
        if self._prompt_logprobs is None:
            return None
        return (None, *self._prompt_logprobs.of(self.prompt[1:], token_texts))

    @property
    def _texts_that_are_tokens(self) -> Mapping[int, str]:
        return {} if self._stops is None else self._stops.tokens

    def _completes_stop_text(self) -> bool:
        n_before = self.params.min_tokens
        if self._stops is None or len(self.token_ids) <= n_before:
            return False
        try:
            before, tokens = (), self.token_ids
            if n_before:
                before, tokens = tokens[:n_before], tokens[n_before:]
            if self._watch is None:
                self._watch = StopWatch(self._stops, [*self.prompt, *before])
            found = self._watch.found(tokens)
            if found is None:
                return False
            begin = self._text_of(before) if before else ""
        except RequestError as error:
            self.fail(error)
            return True
        text, stop_text = found
        self._text_at_stop = begin + text
        self._finish("stop", stop_text)
        return True

    def _completes_mask(self, token: int) -> bool:
        if self._mask is None:
            return False
        try:
            self._mask.accept(token)
            if self._mask.finished:
                self._finish("stop", None)
        except RequestError as error:
            self.fail(error)
        return self.finished

    def _end_with_token(self, stop_reason: int | str | None) -> None:
        self._ended_by_token = True
        self._finish("stop", stop_reason)

    def _finish(self, reason: str, stop_reason: int | str | None) -> None:
        self._finish_reason, self._stop_reason = reason, stop_reason

    def _text(self) -> str:
        keep_stop = self.params.include_stop_str_in_output
        stop_text = self._stop_reason if keep_stop and isinstance(self._stop_reason, str) else ""
        if self._text_at_stop is not None:
            return self._text_at_stop + stop_text
        if not self._ended_by_token or (keep_stop and not stop_text):
            return self._text_of(self.token_ids)
        return self._text_of(self.token_ids[:-1]) + stop_text

    def _text_of(self, tokens: Sequence[int]) -> str:
        return answer_text(self._tokenizer, self.prompt, tokens) if self._tokenizer else ""


def _records(n_top: int | None) -> LogprobRecords | None:
    return None if n_top is None else LogprobRecords(n_top)


def draw_seed() -> int:
    """A seed from the operating system."""
    return secrets.randbits(64)
