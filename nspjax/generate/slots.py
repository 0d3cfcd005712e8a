"""Which item is in which row. Pure: no model, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Slots(Generic[Item]):
    """`n_rows` rows, given to the items of `source` first come, first served.

    The source is read lazily: never more than n_rows items beyond those that have a row.
    """

    def __init__(self, n_rows: int, source: Iterator[Item]) -> None:
        self._source = source
        self._waiting: deque[Item] = deque()
        self._rows: dict[int, Item] = {}
        self._free = list(range(n_rows))
        self._n_rows = n_rows

    @property
    def running(self) -> Mapping[int, Item]:
        """The items that have a row, by row."""
        return MappingProxyType(self._rows)

    @property
    def n_waiting(self) -> int:
        """Items read from the source that have no row yet."""
        return len(self._waiting)

    @property
    def next_waiting(self) -> Item | None:
        """The item that gets the next free row."""
        return self._waiting[0] if self._waiting else None

    def admit(self) -> dict[int, Item]:
        """Give free rows, lowest first, to waiting items; returns the new ones by row."""
        self._read_ahead(len(self._free) + self._n_rows)
        admitted = {}
        while self._free and self._waiting:
            row = min(self._free)
            self._free.remove(row)
            self._rows[row] = admitted[row] = self._waiting.popleft()
        return admitted

    def release(self, row: int) -> Item:
        """Take the item out of its row, which is free from now on."""
        item = self._rows.pop(row)
        self._free.append(row)
        return item

    def withdraw(self, row: int) -> Item:
        """Put the item back at the head of those that wait. The row is not used again."""
        item = self._rows.pop(row)
        self._waiting.appendleft(item)
        return item

    def _read_ahead(self, n_items: int) -> None:
        while len(self._waiting) < n_items:
            try:
                self._waiting.append(next(self._source))
            except StopIteration:
                return
