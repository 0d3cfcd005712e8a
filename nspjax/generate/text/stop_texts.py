"""The texts that end an answer, looked for after every token."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nspjax.errors import RequestError
from nspjax.generate.text.tokenization import added_text, answer_text, decode, special_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_UNFINISHED = "\ufffd"
"""What decoding gives for a part of a character (and for one that is no text at all)."""
_CHARACTER_TOKENS = 4
"""Tokens that one character may take: its bytes."""
_CONTEXT_TOKENS = 16
"""Tokens decoded besides those that a stop text may span: a text's first characters may decode
differently on their own."""


@dataclasses.dataclass(frozen=True)
class StopTexts:
    """The stop texts of a request: those to be found in text, and those that are a token.

    texts: all of them. tokens: those that are a special token, by its id. not_text: the ids of all
    special tokens, which text never has.
    """

    tokenizer: PreTrainedTokenizerBase
    texts: tuple[str, ...]
    tokens: Mapping[int, str]
    not_text: frozenset[int]

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> StopTexts:
        """Raises:
        RequestError: a text that holds a special token besides other text: it can never be found.
        """
        special = special_token_ids(tokenizer)
        for text in texts:
            inside = next((each for each in special if each and each in text), None)
            if inside is not None and text not in special:
                raise RequestError(
                    f"stop={text[:60]!r} holds the special token {inside[:60]!r}, which is not "
                    f"part of an answer's text: use stop_token_ids=[{special[inside]}]",
                    param="stop",
                )
        tokens = {special[text]: text for text in texts if text in special}
        return StopTexts(tokenizer, tuple(texts), tokens, frozenset(special.values()))

    def first_in(self, text: str) -> tuple[int, str] | None:
        """Where the first of the texts begins, and which it is; of two there, the longer one."""
        found = ((text.find(each), -len(each), each) for each in self.texts if each in text)
        at = min(found, default=None)
        return None if at is None else (at[0], at[2])


class StopWatch:
    """Looks for stop texts in one answer as it grows, at a cost that does not grow with it.

    Right is what decoding all tokens after each one would find. Only a window of the newest ones
    is decoded; it begins with a whole character, and what is found in it is checked against all.
    (One thing differs: where bytes that are no text spoil a run of byte tokens longer than the
    window, as tokenizers with byte fallback decode them, a stop text of U+FFFD may not be seen.)
    """

    def __init__(self, stops: StopTexts, prompt: Sequence[int]) -> None:
        self._stops = stops
        self._prompt = prompt
        self._n_longest = max(map(len, stops.texts))
        self._n_window = _CHARACTER_TOKENS * self._n_longest + _CONTEXT_TOKENS
        end = itertools.islice(filter(self._is_text, reversed(prompt)), 2 * self._n_window)
        self._window = list(end)[::-1]
        self._n_prompt = len(self._window)  # tokens of the window that are the prompt's
        self._shorten()

    def found(self, answer: Sequence[int]) -> tuple[str, str] | None:
        """After the answer's newest token: the text before the first stop text, and that one.

        Raises:
          RequestError: the tokenizer fails at these tokens.
        """
        if not self._is_text(answer[-1]):
            return None
        self._window.append(answer[-1])
        if len(self._window) > 2 * self._n_window:
            self._shorten()
        tokenizer = self._stops.tokenizer
        text = _whole_characters(added_text(self._before, decode(tokenizer, self._window)))
        n_new = len(added_text(self._searched, text))
        self._searched = text
        if self._stops.first_in(text[max(0, len(text) - n_new - self._n_longest) :]) is None:
            return None
        text = _whole_characters(answer_text(tokenizer, self._prompt, answer))
        first = self._stops.first_in(text)
        return None if first is None else (text[: first[0]], first[1])

    def _is_text(self, token: int) -> bool:
        if token in self._stops.not_text:
            return False
        return bool(self._stops.tokenizer.convert_ids_to_tokens(token))  # else there is none

    def _shorten(self) -> None:
        """Let the window begin `_n_window` tokens before its end, or some more, to begin with a
        whole character: a half one can spoil all that follows it."""
        start = latest = max(0, len(self._window) - self._n_window)
        for at in range(latest, max(0, latest - _CONTEXT_TOKENS), -1):
            if self._begins_a_character(at):
                start = at
                break
        self._window = self._window[start:]
        self._n_prompt = max(0, self._n_prompt - start)
        self._before = decode(self._stops.tokenizer, self._window[: self._n_prompt])
        self._searched = ""

    def _begins_a_character(self, at: int) -> bool:
        for n_tokens in range(1, _CHARACTER_TOKENS + 1):
            text = decode(self._stops.tokenizer, self._window[at : at + n_tokens])
            if _UNFINISHED not in text or (len(text) == 1 and n_tokens > 1):
                return True  # bytes that do not belong together are more than one U+FFFD
        return False


def _whole_characters(text: str) -> str:
    """Text without an end that the next tokens may still change."""
    return text.rstrip(_UNFINISHED)
