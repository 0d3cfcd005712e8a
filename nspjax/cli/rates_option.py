"""Rates as people write them: "device=3GB/s,link=16GB/s,compute=10TFLOP/s"."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable
from typing import Any

from nspjax.byte_size import parse_bytes
from nspjax.compiler.machine.rates import Rates
from nspjax.errors import InvalidArgumentError

ASSUMED_RATES = Rates(device_bytes_per_s=3e9, link_bytes_per_s=16e9, compute_flops=10e12)
"""Of a picture where nothing else is said: a PCIe 4 drive on a PCIe 4 link, a small GPU."""

_EXAMPLE = "device=3GB/s,link=16GB/s,compute=10TFLOP/s"
_PREFIXES = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


def parse_rates(text: str) -> Rates:
    """The rates in `text`, in any order; device, link and compute must be there.

    Raises:
      InvalidArgumentError: not rates.
    """
    given: dict[str, Any] = {}
    shown = reprlib.repr(text)
    for item in text.split(","):
        name, _, value = (part.strip() for part in item.partition("="))
        if name not in _FIELDS or name in given:
            raise InvalidArgumentError(
                f"cannot read the rates {shown}: write {_EXAMPLE}, and if you like "
                f"{', '.join(name for name in _FIELDS if name not in _NEEDED)}"
            )
        given[name] = _FIELDS[name][1](value)
    if missing := [name for name in _NEEDED if name not in given]:
        raise InvalidArgumentError(
            f"the rates {shown} have no {' and no '.join(missing)}: write {_EXAMPLE}"
        )
    return Rates(**{_FIELDS[name][0]: value for name, value in given.items()})


def _bytes_per_s(text: str) -> float:
    size, slash, second = text.rpartition("/")
    if not slash or second != "s":
        raise InvalidArgumentError(f'{reprlib.repr(text)} is no rate: write for example "3GB/s"')
    return float(parse_bytes(size))


def _flops(text: str) -> float:
    found = re.fullmatch(
        r"([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([KMGTP]?)FLOP(?:/s|S)", text, re.IGNORECASE | re.ASCII
    )
    if found is None or not float(found[1]):
        raise InvalidArgumentError(
            f'{reprlib.repr(text)} is no rate: write for example "10TFLOP/s"'
        )
    return float(found[1]) * _PREFIXES[found[2].upper()]


_NEEDED = ("device", "link", "compute")
_FIELDS: dict[str, tuple[str, Callable[[str], float]]] = {
    "device": ("device_bytes_per_s", _bytes_per_s),
    "link": ("link_bytes_per_s", _bytes_per_s),
    "compute": ("compute_flops", _flops),
    "attend": ("attend_bytes_per_s", _bytes_per_s),
    "write": ("write_bytes_per_s", _bytes_per_s),
    "memory": ("memory_bytes_per_s", _bytes_per_s),
    "ahead": ("read_ahead_bytes", parse_bytes),
}
"""By the name that people write: the field of `Rates`, and what reads it."""
