"""Paths as text. A path may have any bytes but NUL; Python has those that are no UTF-8 as lone
surrogates, which cannot be printed and be no part of JSON."""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\ud800-\udfff]")


def printable(text: str) -> str:
    """With "\\xe9" for a byte that is no UTF-8."""
    return _SURROGATE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
