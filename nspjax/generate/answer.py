"""One answer in the making: its tokens so far, and what ends it. Host side, no JAX."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nspjax.errors import NspjaxError
from nspjax.generate import tokenization
from nspjax.generate.outputs import CompletionOutput
from nspjax.generate.sampling_params import SamplingParams

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Answer:
    """Answer `index` of a request. `accept` is the one place that decides when it ends.

    prompt: its token ids; max_tokens: what params and the context allow; end_tokens: the model's;
    seed: of the request, to which the index is added.
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
        tokenizer: Tokenizer | None,
    ) -> None:
        self.prompt = prompt
        self.params = params
        self.max_tokens = max_tokens
        self.token_ids: list[int] = []
        self.error: NspjaxError | None = None
        self._index = index
        self._seed = (seed + index) % 2**64
        self._end_tokens = frozenset(() if params.ignore_eos else end_tokens)
        self._stop_texts = params.stop_texts
        self._tokenizer = tokenizer
        self._finish_reason = ""
        self._stop_reason: int | str | None = None

    @property
    def key_words(self) -> tuple[int, int]:
        """The two 32-bit words of the random key."""
        return self._seed >> 32, self._seed & 0xFFFFFFFF

    @property
    def stop_tokens(self) -> list[int]:
        """All tokens that end the answer, the model's end tokens first."""
        return sorted(self._end_tokens) + sorted({*self.params.stop_token_ids} - self._end_tokens)

    @property
    def finished(self) -> bool:
        return bool(self._finish_reason)

    def accept(self, token: int) -> bool:
        """Append the next token. Returns whether the answer has ended with it."""
        self.token_ids.append(token)
        if token in self._end_tokens:
            self._finish("stop", None)
        elif token in self.params.stop_token_ids:
            self._finish("stop", token)
        elif (text := self._completed_stop_text()) is not None:
            self._finish("stop", text)
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

    def output(self) -> CompletionOutput:
        """The finished answer."""
        return CompletionOutput(
            self._index,
            self._text(),
            tuple(self.token_ids),
            self._finish_reason,
            self._stop_reason,
        )

    def _completed_stop_text(self) -> str | None:
        if not self._stop_texts or self._tokenizer is None:
            return None
        return tokenization.find_stop(self._tokenizer, self.token_ids, self._stop_texts)

    def _finish(self, reason: str, stop_reason: int | str | None) -> None:
        self._finish_reason, self._stop_reason = reason, stop_reason

    def _text(self) -> str:
        if self._tokenizer is None:
            return ""
        if isinstance(self._stop_reason, str):
            text = tokenization.decode(self._tokenizer, self.token_ids)
            return tokenization.cut_at_stop(text, self._stop_reason)
        by_token = self._finish_reason == "stop"
        return tokenization.decode(
            self._tokenizer, self.token_ids[:-1] if by_token else self.token_ids
        )


def draw_seed() -> int:
    """A seed from the operating system."""
    return secrets.randbits(64)
