"""What XLA ran and what the engine did, on one clock, as one trace for ui.perfetto.dev."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orjson

from nspjax.runtime.plain_file import as_path, check_writable, write_plain
from nspjax.runtime.store import Store
from nspjax.runtime.trace import chrome_trace

_CLOCK = "nspjax.clock"
_CLOCK_SAMPLES = 20
_XLA_PID = 2  # the engine's is 1


@dataclasses.dataclass(frozen=True)
class CompiledOperation:
    """One run of an operation that XLA compiled. The times are CLOCK_MONOTONIC's."""

    name: str
    """as compiled programs have it: "fusion.3"; the engine's calls are nspjax_append.1 and so on"""
    program: str
    thread: str
    begin_ns: int
    end_ns: int


@contextlib.contextmanager
def trace(store: Store, path: str | os.PathLike[str]) -> Iterator[None]:
    """Write to `path` what goes on inside: the operations that XLA runs, by name and thread, and
    the store's events.

    For some steps, not for hours: XLA keeps all of its events until the end. It has one profiler,
    so `jax.profiler` cannot be used at the same time. What was written before an exception is
    written too. A forked child that leaves the block does nothing.

        with nspjax.trace(store, "step.json"):
            jax.block_until_ready(step(weights, tokens, caches))

    Raises:
      StorePathError, StoreFullError, StorageIOError: the file cannot be written, or is none.
      StoreClosedError: the store is closed, or another process's.
    """
    check_writable(as_path(path))
    store.check_usable()
    with _temporary_directory() as directory:
        options = jax.profiler.ProfileOptions()
        options.host_tracer_level = 2  # operations; 1 has programs only
        options.python_tracer_level = 0
        process, begin_ns = os.getpid(), time.monotonic_ns()
        jax.profiler.start_trace(str(directory), profiler_options=options)
        sampled_ns = _sample_clock()
        try:
            yield
        finally:
            if os.getpid() == process:
                jax.profiler.stop_trace()
                events = store.trace()
                operations = _operations(next(directory.rglob("*.xplane.pb")), sampled_ns)
                recent = chrome_trace(events[events["begin_ns"] >= begin_ns])
                write_plain(path, orjson.dumps(_together(recent, operations)))


@contextlib.contextmanager
def _temporary_directory() -> Iterator[Path]:
    """Not tempfile's own: that one is removed by a forked child as well."""
    directory, process = tempfile.mkdtemp(prefix="nspjax-trace-"), os.getpid()
    try:
        yield Path(directory)
    finally:
        if os.getpid() == process:
            shutil.rmtree(directory)


def _sample_clock() -> list[tuple[int, int]]:
    """CLOCK_MONOTONIC before and after each of some events that the profiler sees."""
    sampled = []
    for _ in range(_CLOCK_SAMPLES):
        before_ns = time.monotonic_ns()
        with jax.profiler.TraceAnnotation(_CLOCK):
            pass
        sampled.append((before_ns, time.monotonic_ns()))
    return sampled


def _operations(profile: Path, sampled_ns: list[tuple[int, int]]) -> list[CompiledOperation]:
    """Those in a profile that XLA wrote, in the order in which they begin."""
    found: list[CompiledOperation] = []
    clock: list[tuple[float, float]] = []
    for plane in jax.profiler.ProfileData.from_file(str(profile)).planes:
        for line in plane.lines:
            for event in line.events:
                begin_ns, end_ns = event.start_ns, event.start_ns + event.duration_ns
                if event.name == _CLOCK:
                    clock.append((begin_ns, end_ns))
                    continue
                stats = dict(event.stats)
                if "hlo_op" in stats:
                    program = str(stats.get("hlo_module", ""))
                    found.append(
                        CompiledOperation(
                            event.name, program, line.name or "", int(begin_ns), int(end_ns)
                        )
                    )
    offset_ns = _offset_ns(sampled_ns, sorted(clock))
    moved = [
        dataclasses.replace(op, begin_ns=op.begin_ns + offset_ns, end_ns=op.end_ns + offset_ns)
        for op in found
    ]
    return sorted(moved, key=lambda op: (op.begin_ns, -op.end_ns))


def _offset_ns(sampled_ns: list[tuple[int, int]], seen_ns: list[tuple[float, float]]) -> int:
    """What to add to the profiler's times, from the sample that was taken in the least time."""
    assert len(sampled_ns) == len(seen_ns), "the profiler has all of our annotations"
    (begin_ns, end_ns), seen = min(
        zip(sampled_ns, seen_ns, strict=True), key=lambda pair: pair[0][1] - pair[0][0]
    )
    return round((begin_ns + end_ns) / 2 - sum(seen) / 2)


def _together(engine: dict[str, Any], operations: list[CompiledOperation]) -> dict[str, Any]:
    """The engine's trace with another process in it, XLA's; times from the first event of both."""
    drawn = [event for event in engine["traceEvents"] if event["ph"] == "X"]
    engine_origin_ns = engine["otherData"]["origin_ns"]
    begins_ns = [engine_origin_ns] * bool(drawn) + [op.begin_ns for op in operations[:1]]
    origin_ns = min(begins_ns, default=0)
    for event in drawn:
        event["ts"] += (engine_origin_ns - origin_ns) / 1000
    threads = {name: tid for tid, name in enumerate(dict.fromkeys(op.thread for op in operations))}
    events = [
        *engine["traceEvents"],
        _name("process_name", 0, "XLA"),
        *(_name("thread_name", tid, name) for name, tid in threads.items()),
        *(_drawn(op, threads[op.thread], origin_ns) for op in operations),
    ]
    return engine | {"traceEvents": events, "otherData": {"origin_ns": origin_ns}}


def _drawn(op: CompiledOperation, lane: int, origin_ns: int) -> dict[str, Any]:
    return {
        "name": op.name,
        "cat": "XLA",
        "ph": "X",
        "pid": _XLA_PID,
        "tid": lane,
        "ts": (op.begin_ns - origin_ns) / 1000,
        "dur": (op.end_ns - op.begin_ns) / 1000,
        "args": {"program": op.program},
    }


def _name(what: str, lane: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": _XLA_PID, "tid": lane, "args": {"name": name}}
