"""One answer in the making: its tokens so far, and what ends it. Host side, no JAX."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nspjax.errors import NspjaxError, RequestError
from nspjax.generate.outputs import CompletionOutput
from nspjax.generate.sampling.token_mask import NewMask
from nspjax.generate.sampling_params import SamplingParams
from nspjax.generate.text.stop_texts import StopTexts, StopWatch
from nspjax.generate.text.tokenization import answer_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Answer:
    """Answer `index` of a request. `accept` is the one place that decides when it ends.

    prompt: its token ids; max_tokens: what params and the context allow; end_tokens: the model's;
    seed: of the request, to which the index is added. tokenizer: None gives answers without text.
    stops: the request's stop texts, None where it has none. new_mask: makes what says, token by
    token, which may come next; None: all may. request_id: for traces.
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
        new_mask: NewMask | None = None,
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
        self._new_mask = new_mask
        self._mask = new_mask() if new_mask else None
        self._ended_by_token = False
        self._text_before_stop: str | None = None
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
    def mask_changes(self) -> bool:
        """Whether `allowed` depends on the tokens so far."""
        return self._mask is not None

    def allowed(self) -> np.ndarray | None:
        """The tokens that may come next, packed (see `token_mask`); None: all."""
        try:
            return None if self._mask is None else self._mask.allowed()
        except RequestError as error:
            self.fail(error)
            return None

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
        self._mask = self._new_mask() if self._new_mask else None

    def output(self) -> CompletionOutput:
        """The finished answer.

        Raises:
          RequestError: the tokenizer fails at its tokens.
        """
        return CompletionOutput(
            self._index,
            self._text(),
            tuple(self.token_ids),
            self._finish_reason,
            self._stop_reason,
        )

    @property
    def _texts_that_are_tokens(self) -> Mapping[int, str]:
        return {} if self._stops is None else self._stops.tokens

    def _completes_stop_text(self) -> bool:
        if self._stops is None:
            return False
        try:
            if self._watch is None:
                self._watch = StopWatch(self._stops, self.prompt)
            found = self._watch.found(self.token_ids)
        except RequestError as error:
            self.fail(error)
            return True
        if found is None:
            return False
        self._text_before_stop, stop_text = found
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
        if self._tokenizer is None:
            return ""
        if self._text_before_stop is not None:
            return self._text_before_stop
        tokens = self.token_ids[:-1] if self._ended_by_token else self.token_ids
        return answer_text(self._tokenizer, self.prompt, tokens)


def draw_seed() -> int:
    """A seed from the operating system."""
    return secrets.randbits(64)
