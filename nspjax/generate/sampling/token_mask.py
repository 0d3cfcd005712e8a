"""What the host says, token by token, about the tokens that may come next in an answer.

A set of tokens is packed bits, as llguidance and xgrammar have it: uint32 [ceil(V/32)], token t in
bit t % 32 of word t // 32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np


class TokenMask(Protocol):
    """Watches one answer from its first token on.

    The next set depends on the token that was chosen, so while a row has a mask, the compiled loop
    returns after every step. A method may raise RequestError, which ends the answer.
    """

    def allowed(self) -> np.ndarray:
        """The tokens that may come next, packed, uint32 [ceil(V/32)] for the model's V tokens.

        What is allowed must hold one of the answer's end tokens where the answer may end.
        """
        ...

    def accept(self, token: int) -> None:
        """The answer goes on with this token. It is none of the answer's end tokens."""
        ...

    @property
    def finished(self) -> bool:
        """Whether nothing may follow: the answer ends here, as with a stop token."""
        ...


NewMask = Callable[[], TokenMask]
"""Makes the mask of an answer that begins: one for each of `n`, and again after a restart."""


def all_of(makers: Sequence[NewMask]) -> NewMask | None:
    """Makes a mask that allows what all of several allow; None where there are none."""
    if len(makers) < 2:
        return makers[0] if makers else None
    return lambda: AllOf([make() for make in makers])


class AllOf:
    """A mask that allows what all of several allow."""

    def __init__(self, masks: Sequence[TokenMask]) -> None:
        self._masks = masks

    def allowed(self) -> np.ndarray:
        return np.bitwise_and.reduce([mask.allowed() for mask in self._masks])

    def accept(self, token: int) -> None:
        for mask in self._masks:
            mask.accept(token)

    @property
    def finished(self) -> bool:
        return any(mask.finished for mask in self._masks)


def n_words(vocab_size: int) -> int:
    """The words of a set."""
    return -(-vocab_size // 32)


def packed(tokens: Iterable[int], vocab_size: int) -> np.ndarray:
    """The set of these tokens."""
    bits = np.zeros(32 * n_words(vocab_size), np.uint8)
    bits[list(tokens)] = 1
    return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32, copy=False)


def packed_all(vocab_size: int) -> np.ndarray:
    """The set of all tokens, and of those that would fill the last word."""
    return np.full(n_words(vocab_size), 0xFFFFFFFF, np.uint32)
