"""How far an `LLM` is: its statistics, which other threads may look at."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Iterator

from nspjax.generate.outputs import GenerationStats, ServedRow

MOST_SERVED = 1 << 16
"""As many answers as a store's trace has events."""


class Progress:
    """The statistics so far. `stats` is replaced, never changed, so any thread may read it.
    served: the newest answers that have finished."""

    def __init__(self) -> None:
        self.stats = GenerationStats()
        self.served: deque[ServedRow] = deque(maxlen=MOST_SERVED)

    def add(self, **increments: float) -> None:
        """Count up."""
        self.set(**{name: getattr(self.stats, name) + by for name, by in increments.items()})

    def set(self, **values: object) -> None:
        """Replace the fields named."""
        self.stats = dataclasses.replace(self.stats, **values)  # pyright: ignore

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """While a program is compiled."""
        self.set(compiling=True)
        began = time.perf_counter()
        try:
            yield
            self.add(programs_compiled=1)
        finally:
            self.add(compile_seconds=time.perf_counter() - began)
            self.set(compiling=False)

    def seconds(self) -> float:
        """A clock that stands still while programs are compiled."""
        return time.perf_counter() - self.stats.compile_seconds
