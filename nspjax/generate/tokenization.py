"""Text to tokens and back, with a checkpoint's tokenizer.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nspjax.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TAIL_TOKENS = 16
"""Tokens looked at besides those that a stop text may span: special ones decode to nothing, and
the first characters of a piece of text may decode differently on their own."""


def load_tokenizer(directory: Path) -> Tokenizer | None:
    """The tokenizer of a checkpoint directory, None where it has no tokenizer.json.

    Raises:
      CheckpointError: the file cannot be read as a tokenizer, or by nothing installed here.
    """
    path = directory / "tokenizer.json"
    if not path.exists():
        return None
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise CheckpointError(
            f"{path} needs the package tokenizers: pip install 'nspjax[hf]'"
        ) from error
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"{path} is no tokenizer that can be read: {error}") from error


def encode(tokenizer: Tokenizer, text: str, *, special_tokens: bool) -> tuple[int, ...]:
    """The tokens of a prompt; `special_tokens`: with those that the tokenizer adds, as BOS."""
    return tuple(tokenizer.encode(text, add_special_tokens=special_tokens).ids)


def decode(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """The text of generated tokens without special ones and without an unfinished character.

    A byte-level token may hold a part of a UTF-8 character; at the end of an answer such a part
    is dropped, in the middle it stays visible as U+FFFD.
    """
    text = tokenizer.decode(list(token_ids), skip_special_tokens=True)
    return text.rstrip("\ufffd")


def find_stop(
    tokenizer: Tokenizer, token_ids: Sequence[int], stop_texts: Sequence[str]
) -> str | None:
    """The stop text that the last token has completed, None where there is none.

    Called after every token, so only the end of the text is decoded: a character is at most four
    byte-level tokens. Of several, the one that begins first in the text.
    """
    n_tail = 4 * max(map(len, stop_texts)) + _TAIL_TOKENS
    tail = tokenizer.decode(list(token_ids[-n_tail:]), skip_special_tokens=True)
    return _first(tail, stop_texts)


def cut_at_stop(text: str, stop_text: str) -> str:
    """What stands before the stop text."""
    return text.partition(stop_text)[0]


def _first(text: str, stop_texts: Sequence[str]) -> str | None:
    found = [(text.find(stop), stop) for stop in stop_texts if stop in text]
    return min(found)[1] if found else None
