"""What the engine did and when, as a trace for Perfetto (ui.perfetto.dev) or chrome://tracing."""

from __future__ import annotations

import dataclasses
import enum
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nspjax.errors import InvalidArgumentError
from nspjax.runtime.plain_file import write_plain


class TraceKind(enum.IntEnum):
    """What an event is, as the engine numbers it."""

    attend = 0
    append = 1
    read = 2
    read_ahead = 3
    write = 4
    wait = 5
    compute = 6
    pack = 7
    attend_start = 8
    attend_wait = 9
    prefetch = 10
    writeback = 11
    fetch = 12
    load = 13
    load_ahead = 14


TRACE_DTYPE = np.dtype(
    [
        ("begin_ns", np.int64),
        ("end_ns", np.int64),
        ("offset", np.int64),
        ("bytes", np.int64),
        ("device", np.int32),
        ("cache", np.int32),
        ("row", np.int32),
        ("thread", np.int32),
        ("kind", np.uint8),
    ]
)
"""An event. The times are CLOCK_MONOTONIC's; device, cache, row: -1 where there is none. offset is
an attention's ticket in attend, which is the attention at work, attend_start and attend_wait."""


@dataclasses.dataclass(frozen=True)
class Span:
    """Something to show above the events, in a lane of its own or with others that come before and
    after. The times are CLOCK_MONOTONIC's."""

    lane: str
    name: str
    begin_ns: int
    end_ns: int


_PID = 1
_CALLS = {TraceKind.append, *(kind for kind in TraceKind if kind >= TraceKind.attend_start)}
_TICKETS = {TraceKind.attend, TraceKind.attend_start, TraceKind.attend_wait}
_READS = {TraceKind.read, TraceKind.read_ahead}


def trace_events(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """One structured array [n] of the engine's array for each field."""
    events = np.empty(len(columns["kind"]), TRACE_DTYPE)
    for name in TRACE_DTYPE.names or ():
        events[name] = columns[name]
    return events


def chrome_trace(
    events: np.ndarray | Sequence[tuple[int, ...]],
    *,
    spans: Iterable[Span] = (),
    process_name: str = "nspjax",
) -> dict[str, Any]:
    """The events in Chrome's JSON format, times in microseconds since the first of them.

    Calls, attention, each device's reads, each device's writes and each thread's work have lanes.
    Transfers that overlap go to lanes of their own side by side, since a lane can only nest.

    events: an array of TRACE_DTYPE, or records with its fields in its order.
    spans: what else was going on; what ended before the first event is left out.

    Raises:
      InvalidArgumentError: fields or a kind that a trace does not have.
    """
    table = _as_events(events)
    table = table[np.argsort(table["begin_ns"], kind="stable")]
    origin_ns = int(table["begin_ns"][0]) if len(table) else 0
    lanes = _Lanes()
    computing = table["thread"][table["kind"] == TraceKind.compute]
    workers = {thread: f"worker {i}" for i, thread in enumerate(np.unique(computing).tolist(), 1)}
    drawn = [_drawn(record, origin_ns, lanes, workers) for record in table.tolist()]
    drawn += [_drawn_span(span, origin_ns, lanes) for span in spans if span.end_ns > origin_ns]
    return {
        "traceEvents": [_metadata("process_name", 0, name=process_name), *lanes.metadata(), *drawn],
        "displayTimeUnit": "ns",
        "otherData": {"origin_ns": origin_ns},
    }


def save_chrome_trace(
    path: str | os.PathLike[str],
    events: np.ndarray | Sequence[tuple[int, ...]],
    *,
    spans: Iterable[Span] = (),
    process_name: str = "nspjax",
) -> None:
    """Write `chrome_trace` of the events to a file.

    Raises:
      StorePathError, StoreFullError, StorageIOError: it cannot be written, or is no file.
    """
    import orjson

    trace = chrome_trace(events, spans=spans, process_name=process_name)
    write_plain(path, orjson.dumps(trace))


def _as_events(events: np.ndarray | Sequence[tuple[int, ...]]) -> np.ndarray:
    try:
        if not isinstance(events, np.ndarray):
            events = np.array([tuple(event) for event in events], TRACE_DTYPE)
        elif events.dtype.names != TRACE_DTYPE.names:
            raise TypeError(f"an array of {events.dtype}")
        table = events.astype(TRACE_DTYPE, copy=False)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(
            f"no events of a trace: {error}; give an array of TRACE_DTYPE, or its fields in tuples"
        ) from error
    unknown = table["kind"][table["kind"] >= len(TraceKind)]
    if len(unknown):
        raise InvalidArgumentError(
            f"an event of a trace has kind {unknown[0]}: there are 0 to {len(TraceKind) - 1}"
        )
    return table


def _drawn(
    record: tuple[int, ...], origin_ns: int, lanes: _Lanes, workers: Mapping[int, str]
) -> dict[str, Any]:
    begin_ns, end_ns, offset, n_bytes, device, cache, row, thread, number = record
    kind = TraceKind(number)
    if kind in _CALLS:
        lane = lanes.beside((0, 0), "calls", begin_ns, end_ns)
    elif kind == TraceKind.attend:
        lane = lanes.beside((1, 0), "attention", begin_ns, end_ns)
    elif kind in _READS:
        lane = lanes.beside((2, device), f"device {device} reads", begin_ns, end_ns)
    elif kind == TraceKind.write:
        lane = lanes.beside((3, device), f"device {device} writes", begin_ns, end_ns)
    else:
        lane = lanes.nested((4, thread), workers.get(thread, f"thread {thread}"))
    args = {"device": device, "cache": cache, "row": row}
    args = {name: value for name, value in args.items() if value >= 0}
    if kind in _TICKETS:
        args["ticket"] = offset
    elif n_bytes:
        args |= {"offset": offset, "bytes": n_bytes}
    return _complete(kind.name, kind.name, lane, begin_ns - origin_ns, end_ns - begin_ns, args)


def _drawn_span(span: Span, origin_ns: int, lanes: _Lanes) -> dict[str, Any]:
    lane = lanes.named(span.lane)
    begin_ns = max(span.begin_ns, origin_ns)
    return _complete(span.name, "span", lane, begin_ns - origin_ns, span.end_ns - begin_ns, {})


def _complete(
    name: str, category: str, lane: int, begin_ns: int, duration_ns: int, args: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "pid": _PID,
        "tid": lane,
        "ts": begin_ns / 1000,
        "dur": duration_ns / 1000,
        "args": args,
    }


class _Lanes:
    """Numbers lanes, and finds one for each event. Events come in the order in which they begin."""

    def __init__(self) -> None:
        self._names: dict[tuple[int, int, int], str] = {}
        self._numbers: dict[tuple[int, int, int], int] = {}
        self._free_ns: dict[tuple[int, int], list[int]] = {}
        self._spans: dict[str, int] = {}

    def named(self, name: str) -> int:
        """One above those of events, in the order in which they are asked for."""
        index = self._spans.setdefault(name, len(self._spans))
        return self._number((-1, 0, index), name)

    def nested(self, group: tuple[int, int], name: str) -> int:
        """The only lane of its group."""
        return self._number((*group, 0), name)

    def beside(self, group: tuple[int, int], name: str, begin_ns: int, end_ns: int) -> int:
        """The group's first lane in which nothing is going on."""
        free_ns = self._free_ns.setdefault(group, [])
        free = (index for index, until_ns in enumerate(free_ns) if until_ns <= begin_ns)
        index = next(free, len(free_ns))
        if index == len(free_ns):
            free_ns.append(0)
        free_ns[index] = end_ns
        return self._number((*group, index), f"{name} {index + 1}" if index else name)

    def metadata(self) -> Iterable[dict[str, Any]]:
        """Names and order: spans, calls, attention, devices' reads, writes, threads."""
        for order, key in enumerate(sorted(self._names)):
            yield _metadata("thread_name", self._numbers[key], name=self._names[key])
            yield _metadata("thread_sort_index", self._numbers[key], sort_index=order)

    def _number(self, key: tuple[int, int, int], name: str) -> int:
        self._names[key] = name
        return self._numbers.setdefault(key, len(self._numbers) + 1)


def _metadata(what: str, lane: int, **args: Any) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": _PID, "tid": lane, "args": args}
