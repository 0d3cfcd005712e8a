"""The text that one token stands for, as it reads within other text."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from nspjax.generate.text.tokenization import added_text, decode, encode, special_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenTexts:
    """Texts of tokens, each looked up once.

    A special token is its name. A token that is a part of a character is "bytes:" and its bytes,
    as OpenAI writes it. Without a tokenizer, a token is "token_id:" and its id, as vLLM writes it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, tuple[str, bytes]] = {}

    def __getitem__(self, token: int) -> tuple[str, bytes]:
        """The text and, in UTF-8 or as the part of it that the token is, its bytes.

        Raises:
          RequestError: the tokenizer fails at the token.
        """
        if token not in self._known:
            self._known[token] = self._found(token)
        return self._known[token]

    def _found(self, token: int) -> tuple[str, bytes]:
        if self._tokenizer is None:
            text = f"token_id:{token}"
        elif token in self._special:
            text = self._special[token]
        else:
            # after other text, as a tokenizer may drop the space that a text begins with
            text = added_text(
                decode(self._tokenizer, self._before),
                decode(self._tokenizer, [*self._before, token]),
            )
            if "\ufffd" in text:
                return self._part(token, text)
        return text, text.encode()

    def _part(self, token: int, text: str) -> tuple[str, bytes]:
        assert self._tokenizer is not None
        piece = self._tokenizer.convert_ids_to_tokens(token)
        raw = _bytes_of(piece) if isinstance(piece, str) else None
        if raw is None:
            return text, text.encode()
        try:
            return raw.decode(), raw
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw

    @functools.cached_property
    def _special(self) -> dict[int, str]:
        assert self._tokenizer is not None
        return {token: text for text, token in special_token_ids(self._tokenizer).items()}

    @functools.cached_property
    def _before(self) -> tuple[int, ...]:
        assert self._tokenizer is not None
        return encode(self._tokenizer, "a", special_tokens=False)


def _bytes_of(piece: str) -> bytes | None:
    """The bytes that a vocabulary's entry stands for: "<0xE2>", or GPT-2's visible characters."""
    if (one := _BYTE.fullmatch(piece)) is not None:
        return bytes([int(one[1], 16)])
    table = _visible_bytes()
    return bytes(table[c] for c in piece) if all(c in table for c in piece) else None


@functools.cache
def _visible_bytes() -> dict[str, int]:
    """Character -> byte, as byte-level vocabularies have it since GPT-2: those that can be seen
    stand for themselves, the others for 256 and on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }
