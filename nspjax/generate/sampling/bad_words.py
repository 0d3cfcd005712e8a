"""Texts that an answer must not have, as vLLM bars them: the last token of each one's tokens may
not come after those before it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nspjax.errors import RequestError
from nspjax.generate.sampling.token_mask import packed_all
from nspjax.generate.text.tokenization import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def bad_word_tokens(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[str]
) -> list[tuple[int, ...]]:
    """The tokens of each word, and those that it has after a space, where these are as many and
    begin with another one.

    Raises:
      RequestError: a word has no tokens.
    """
    found = []
    for word in words:
        plain = encode(tokenizer, word.lstrip(), special_tokens=False)
        if not plain:
            raise RequestError(f"bad_words holds {word!r}, which has no token", param="bad_words")
        found.append(plain)
        spaced = encode(tokenizer, " " + word.lstrip(), special_tokens=False)
        if len(spaced) == len(plain) and spaced[0] != plain[0]:
            found.append(spaced)
    return found


class BadWords:
    """The `TokenMask` of words that are more than one token."""

    def __init__(self, words: Sequence[tuple[int, ...]], vocab_size: int) -> None:
        self._words = words
        self._all = packed_all(vocab_size)
        self._n_longest = max(map(len, words)) - 1
        self._end: tuple[int, ...] = ()

    def allowed(self) -> np.ndarray:
        barred = defaultdict(int)
        for *before, last in self._words:
            if self._end[max(0, len(self._end) - len(before)) :] == tuple(before):
                barred[last // 32] |= 1 << last % 32
        if not barred:
            return self._all
        words = self._all.copy()
        for word, bits in barred.items():
            words[word] &= np.uint32(0xFFFFFFFF ^ bits)
        return words

    def accept(self, token: int) -> None:
        self._end = (*self._end, token)[-self._n_longest :]

    @property
    def finished(self) -> bool:
        return False
