"""Things measured in turn, so that a machine that grows slower grows slower for all.

Each round begins with another one, ABC BCA CAB…: what comes after whom makes a difference, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

Measured = TypeVar("Measured")


def in_turn(
    arms: Mapping[str, Callable[[], Measured]], rounds: int, warm_ups: int = 1
) -> dict[str, list[Measured]]:
    """What each arm returned in each round; the warm-up rounds are thrown away."""
    measured: dict[str, list[Measured]] = {name: [] for name in arms}
    names = list(arms)
    for i in range(-warm_ups, rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            _show(f"{f'round {i + 1} of {rounds}' if i >= 0 else 'warm-up'}: {name}")
            result = arms[name]()
            if i >= 0:
                measured[name].append(result)
    _show("")
    return measured


def _show(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median of the ratios within each round."""
    return median(a / b for a, b in zip(over, under, strict=True))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and the range: "1.93 (1.71-2.04)"."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
