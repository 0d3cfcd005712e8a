"""Sizes as people write them: "512MiB", "8 GB", 4096."""

from __future__ import annotations

import re
import reprlib
from fractions import Fraction

from nspjax.errors import InvalidArgumentError

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)}
_UNITS |= {f"{prefix}IB": 1024**power for power, prefix in enumerate("KMGT", 1)}
_SIZE = re.compile(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([A-Za-z]{0,3})\s*")
MOST_BYTES = 2**63 - 1


def parse_bytes(size: str | int, *, least: int = 1) -> int:
    """Bytes in `size`: an int, or a number with an optional unit (B, KB, KiB, MB, MiB, …).

    Raises:
      InvalidArgumentError: not a size, below `least` or above MOST_BYTES.
    """
    if type(size) is int:
        n_bytes = size
    else:
        found = _SIZE.fullmatch(size) if isinstance(size, str) else None
        if found is None or found[2].upper() not in _UNITS:
            raise InvalidArgumentError(
                f'{reprlib.repr(size)} is no size: write for example "512MiB" or "8GB"'
            )
        n_bytes = int(Fraction(found[1]) * _UNITS[found[2].upper()])
    if not least <= n_bytes <= MOST_BYTES:
        bound = f"at least {least}" if n_bytes < least else f"at most {MOST_BYTES}"
        raise InvalidArgumentError(f"a size must be {bound} bytes, got {reprlib.repr(size)}")
    return n_bytes


def format_bytes(n_bytes: float) -> str:
    """Three digits and a binary unit: 1610612736 -> "1.50 GiB"."""
    unit = "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(n_bytes) < 1024 or unit == "TiB":
            break
        n_bytes /= 1024
    if unit == "B":
        return f"{n_bytes:.0f} B"
    digits = 2 if abs(n_bytes) < 10 else 1 if abs(n_bytes) < 100 else 0
    return f"{n_bytes:.{digits}f} {unit}"
