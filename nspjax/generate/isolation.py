"""What a failure of the store costs: which answers fail, which start over. Pure."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping

from nspjax.errors import StorageIOError, StoreDamagedError, StoreError, StoreFullError

ISOLATED = (StorageIOError, StoreDamagedError, StoreFullError)
"""Errors that need not end the run."""

MOST_FAILURES = 8
"""So many without an answer that finishes in between, and the run ends: it gets nowhere."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Rows that fail and why, and rows that start over."""

    failed: Mapping[int, StoreError]
    restarted: tuple[int, ...]


def judge(
    unreadable: Mapping[int, StoreError], n_rows: int, borrowers: Collection[int]
) -> Verdict | None:
    """What becomes of the `unreadable` ones among the n_rows rows of a call that failed.

    A row fails for what is wrong with its own tokens. Where several lack the same place, it is in
    tiles that they share: they start over, as do `borrowers`, rows in prefill that began with
    another's tokens. None: no row of several can be read, and for reasons of its own each, which
    is the device's failure.
    """
    count = Counter(str(error) for error in unreadable.values())
    failed, restarted = {}, []
    for row, error in unreadable.items():
        if count[str(error)] > 1 or row in borrowers:
            restarted.append(row)
        else:
            failed[row] = error
    if len(failed) == n_rows > 1:
        return None
    return Verdict(failed, tuple(restarted))
