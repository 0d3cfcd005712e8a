"""What the devices read before it is asked for, as far as there is room for it."""

from __future__ import annotations

import collections
import dataclasses

from nspjax.compiler.machine.lanes import Lanes

Scanned = tuple[int, int]
"""What is read by one call: the numbers of its cache and of the value that says which rows."""


@dataclasses.dataclass
class _Part:
    """Of what one call will read."""

    what: Scanned
    label: str
    n_bytes: float
    end_s: float = 0.0
    """when it has been read"""


class ReadAhead:
    """The reads of a store's caches: some are under way when they are asked for."""

    def __init__(self, lanes: Lanes):
        self._lanes = lanes
        self._room_bytes = lanes.rates.read_ahead_bytes
        self._read: dict[Scanned, collections.deque[_Part]] = collections.defaultdict(
            collections.deque
        )
        self._announced: list[_Part] = []

    def scan(self, what: Scanned, label: str, n_bytes: float, asked_s: float) -> float:
        """When so many bytes of it are there, some of which may have been read ahead."""
        ready_s, parts = asked_s, self._read[what]
        while n_bytes and parts:
            used = min(n_bytes, parts[0].n_bytes)
            n_bytes -= used
            parts[0].n_bytes -= used
            self._room_bytes += used
            ready_s = max(ready_s, parts[0].end_s)
            if not parts[0].n_bytes:
                parts.popleft()
        self._forget(what, n_bytes)
        return max(ready_s, self._lanes.read(label, n_bytes, asked_s))

    def announce(self, what: Scanned, label: str, n_bytes: float) -> None:
        """This will be scanned, after what was announced before it."""
        self._announced.append(_Part(what, label, n_bytes))

    def go_on(self, asked_s: float) -> None:
        """The devices read what was announced until there is no room."""
        for part in self._announced:
            n_bytes = min(part.n_bytes, self._room_bytes)
            if n_bytes > 0:
                self._room_bytes -= n_bytes
                part.n_bytes -= n_bytes
                end_s = self._lanes.read(part.label, n_bytes, asked_s)
                self._read[part.what].append(_Part(part.what, part.label, n_bytes, end_s))
        self._announced = [part for part in self._announced if part.n_bytes]

    def _forget(self, what: Scanned, n_bytes: float) -> None:
        """What is read now is no longer to be read ahead."""
        for part in self._announced:
            if part.what == what:
                known = min(n_bytes, part.n_bytes)
                n_bytes -= known
                part.n_bytes -= known
