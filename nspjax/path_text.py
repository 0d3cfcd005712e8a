"""Paths as text. A path may have any bytes but NUL; Python has those that are no UTF-8 as lone
surrogates, which cannot be printed and be no part of JSON."""

from __future__ import annotations

import os


def printable(path: str) -> str:
    """With "\\xe9" for a byte that is no UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
