"""Text for messages: what cannot be printed is escaped, what is long is cut.

A path may have any bytes but NUL. Python represents those that are not UTF-8 as lone surrogates,
which can be neither printed nor written as JSON; a request's text may hold other ones.
"""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """With "\\xe9" for a path's byte that is not UTF-8, "\\ud800" for any other surrogate."""
    return _SURROGATE.sub(_escaped, text)


def shortened(text: str, most: int) -> str:
    """Printable text, cut to about `most` characters: its beginning and its end."""
    if len(text) > most:
        end = most // 4
        begin = most - end
        text = f"{text[:begin]} … ({len(text) - begin - end} characters) … {text[-end:]}"
    return printable(text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
