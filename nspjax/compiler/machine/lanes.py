"""What of a machine is busy, and for how long: costs over rates, and who has to wait for whom."""

from __future__ import annotations

import dataclasses
import enum

from nspjax.compiler.machine.costs import Cost
from nspjax.compiler.machine.rates import Rates


class Lane(enum.StrEnum):
    """What does one thing at a time. The devices count together; a drive reads while it writes."""

    compute = "compute"
    link = "link"
    device = "device"
    writes = "writes"


@dataclasses.dataclass(frozen=True)
class Span:
    """Something going on, in seconds from the start of the execution."""

    lane: Lane
    label: str
    begin_s: float
    end_s: float


def lane_seconds(cost: Cost, rates: Rates) -> dict[Lane, float]:
    """How long a cost keeps each lane busy.

    Products take as long as their operations or the reading of their operands, whichever takes
    longer. Writes are taken to be as fast as reads where it is not known how fast they are.
    """
    write_bytes_per_s = rates.write_bytes_per_s or rates.device_bytes_per_s
    products_s = max(cost.flops / rates.compute_flops, cost.memory_bytes / rates.memory_bytes_per_s)
    return {
        Lane.compute: products_s + cost.attended_bytes / rates.attend_bytes_per_s,
        Lane.link: cost.link_bytes / rates.link_bytes_per_s,
        Lane.device: cost.read_bytes / rates.device_bytes_per_s,
        Lane.writes: cost.written_bytes / write_bytes_per_s,
    }


def side_by_side_s(cost: Cost, rates: Rates) -> float:
    """How long it all takes where nothing has to wait for anything else: what the busiest lane
    needs, and less than any schedule of it."""
    return max(lane_seconds(cost, rates).values())


class Lanes:
    """When each lane is free, and what it was busy with. It takes things in the order in which it
    is asked, and says of each when it ends."""

    def __init__(self, rates: Rates):
        self.rates = rates
        self.spans: list[Span] = []
        self._free_s = dict.fromkeys(Lane, 0.0)

    def free_s(self, lane: Lane) -> float:
        """When it has ended what it was asked for so far."""
        return self._free_s[lane]

    def compute(self, label: str, begin_s: float, end_s: float) -> None:
        """The compute device does what it is told at once: its program is in order."""
        self._busy(Lane.compute, label, begin_s, end_s)

    def send(self, label: str, n_bytes: float, asked_s: float) -> float:
        return self._take(Lane.link, label, n_bytes / self.rates.link_bytes_per_s, asked_s)

    def read(self, label: str, n_bytes: float, asked_s: float) -> float:
        return self._take(Lane.device, label, n_bytes / self.rates.device_bytes_per_s, asked_s)

    def write(self, label: str, n_bytes: float, asked_s: float, *, exclusive: bool) -> float:
        """exclusive: after the reads that were asked for before it, and before those after it."""
        if exclusive:
            asked_s = max(asked_s, self._free_s[Lane.device])
        seconds = n_bytes / (self.rates.write_bytes_per_s or self.rates.device_bytes_per_s)
        end_s = self._take(Lane.writes, label, seconds, asked_s)
        if exclusive and n_bytes:
            self._free_s[Lane.device] = end_s
        return end_s

    def _take(self, lane: Lane, label: str, seconds: float, asked_s: float) -> float:
        if seconds <= 0:
            return asked_s
        begin_s = max(asked_s, self._free_s[lane])
        self._free_s[lane] = begin_s + seconds
        self._busy(lane, label, begin_s, begin_s + seconds)
        return begin_s + seconds

    def _busy(self, lane: Lane, label: str, begin_s: float, end_s: float) -> None:
        if end_s > begin_s:
            self.spans.append(Span(lane, label, begin_s, end_s))
