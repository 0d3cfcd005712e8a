"""Events of the engine, and the picture that Perfetto draws of them."""

import collections
import itertools

import numpy as np
import orjson
import pytest

from nspjax import _engine
from nspjax.errors import InvalidArgumentError
from nspjax.runtime.trace import (
    TRACE_DTYPE,
    Span,
    TraceKind,
    chrome_trace,
    save_chrome_trace,
    trace_events,
)


def record(begin_ns, end_ns, kind, *, device=-1, cache=-1, row=-1, thread=-1, offset=0, bytes=0):
    return (begin_ns, end_ns, offset, bytes, device, cache, row, thread, kind)


def lanes(trace):
    """The drawn events by the name of their lane."""
    names, drawn = {}, collections.defaultdict(list)
    for event in trace["traceEvents"]:
        if event["name"] == "thread_name":
            names[event["tid"]] = event["args"]["name"]
        elif event["ph"] == "X":
            drawn[names[event["tid"]]].append(event)
    return dict(drawn)


def test_kinds_are_the_engines():
    assert _engine.trace_kinds == tuple(kind.name for kind in TraceKind)


def test_from_the_engine():
    ring = _engine.Trace(4)
    for n in range(6):
        ring.add(1000 * n, 1000 * n + 500, TraceKind.read, bytes=4096, device=n, row=-1, thread=7)
    assert ring.n_dropped == 2
    events = trace_events(ring.events())
    assert events.dtype == TRACE_DTYPE
    assert events["device"].tolist() == [2, 3, 4, 5]
    assert events["end_ns"].tolist() == [2500, 3500, 4500, 5500]
    assert set(events["row"]) == {-1}
    assert set(events["thread"]) == {7}
    assert set(lanes(chrome_trace(events))) == {f"device {n} reads" for n in range(2, 6)}
    with pytest.raises(InvalidArgumentError, match="kind 15"):
        ring.add(0, 1, 15)


def test_lanes_and_times():
    trace = chrome_trace(
        [
            record(5_000, 9_000, TraceKind.compute, thread=12, cache=1, row=3),
            record(500, 10_500, TraceKind.attend_wait, cache=1, thread=9, offset=7),
            record(1_000, 10_000, TraceKind.attend, cache=1, thread=11, offset=7),
            record(2_000, 4_500, TraceKind.read, device=0, offset=4096, bytes=8192, thread=11),
            record(9_500, 9_600, TraceKind.write, device=1, bytes=4096),
            record(9_000, 9_400, TraceKind.wait, thread=11),
        ],
        process_name="a test",
    )
    drawn = lanes(trace)
    assert set(drawn) == {
        "calls", "attention", "device 0 reads", "device 1 writes", "thread 11", "worker 1"
    }  # fmt: skip
    assert trace["traceEvents"][0]["args"] == {"name": "a test"}
    assert trace["otherData"] == {"origin_ns": 500}
    for lane, name in (("calls", "attend_wait"), ("attention", "attend")):
        (call,) = drawn[lane]
        assert (call["name"], call["args"]) == (name, {"cache": 1, "ticket": 7})
    (read,) = drawn["device 0 reads"]
    assert (read["name"], read["ts"], read["dur"]) == ("read", 1.5, 2.5)
    assert read["args"] == {"device": 0, "offset": 4096, "bytes": 8192}
    (compute,) = drawn["worker 1"]
    assert compute["args"] == {"cache": 1, "row": 3}
    assert len({event["pid"] for event in trace["traceEvents"]}) == 1


def test_transfers_in_flight_together_are_drawn_side_by_side():
    rng = np.random.default_rng(0)
    begins = rng.integers(0, 10_000, 300).tolist()
    trace = chrome_trace(
        [record(at, at + 100 + at % 200, TraceKind.read_ahead, device=0) for at in begins]
    )
    drawn = lanes(trace)
    assert sum(len(events) for events in drawn.values()) == 300
    assert {"device 0 reads", "device 0 reads 2", "device 0 reads 3"} <= set(drawn)
    for events in drawn.values():
        for before, after in itertools.pairwise(events):
            assert before["ts"] + before["dur"] <= after["ts"] + 1e-6


def test_work_of_a_thread_nests_in_one_lane():
    trace = chrome_trace(
        [
            record(0, 100, TraceKind.pack, thread=3),
            record(10, 20, TraceKind.wait, thread=3),
            record(200, 300, TraceKind.compute, thread=3),
        ]
    )
    assert [event["name"] for event in lanes(trace)["worker 1"]] == ["pack", "wait", "compute"]


def test_spans_come_first_and_not_before_the_first_event():
    spans = [
        Span("row 0", "request a", 100, 900),
        Span("row 0", "request b", 900, 1500),
        Span("row 10", "request c", 2000, 3000),
    ]
    trace = chrome_trace([record(1000, 2000, TraceKind.append)], spans=spans)
    drawn = lanes(trace)
    (b,), (c,) = drawn["row 0"], drawn["row 10"]
    assert (b["name"], b["ts"], b["dur"]) == ("request b", 0.0, 0.5)
    assert (c["name"], c["ts"], c["dur"]) == ("request c", 1.0, 1.0)
    order = {
        event["tid"]: event["args"]["sort_index"]
        for event in trace["traceEvents"]
        if event["name"] == "thread_sort_index"
    }
    assert order[b["tid"]] < order[c["tid"]] < order[drawn["calls"][0]["tid"]]


def test_nothing_happened():
    assert lanes(chrome_trace(np.empty(0, TRACE_DTYPE))) == {}
    assert lanes(chrome_trace([])) == {}


def test_saved(tmp_path):
    events = np.array([record(1, 2, TraceKind.append)], TRACE_DTYPE)
    save_chrome_trace(tmp_path / "trace.json", events, process_name="p")
    saved = orjson.loads((tmp_path / "trace.json").read_bytes())
    assert saved == chrome_trace(events, process_name="p")


@pytest.mark.parametrize(
    "bad", [[(1, 2)], [3], np.zeros(3, np.float32), [record(0, 1, 15)], [record("x", 1, 0)]]
)
def test_what_is_no_trace(bad):
    with pytest.raises(InvalidArgumentError, match=r"events? of a trace"):
        chrome_trace(bad)
