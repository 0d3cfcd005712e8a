"""The next call's tiles are read while the present one computes, and while nobody calls."""

import itertools

import numpy as np
import pytest
from engine_oracle import int32

from nspjax.runtime.trace import TraceKind, trace_events

LAYERS, ROWS, TOKENS, HEADS, D = 3, 2, 1024, 2, 64
LAYER_BYTES = ROWS * TOKENS * 2 * HEADS * D * 2


def decode_steps(store, n_steps, window=0):
    caches = store.create_caches(LAYERS, ROWS, TOKENS, HEADS, D, "bf16", 64)
    versions = [store.fill_synthetic(cache, TOKENS) for cache in caches]
    store.flush()
    q = np.ones((ROWS, 1, HEADS, D), np.float32)
    rows, lengths = int32(range(ROWS)), int32([TOKENS] * ROWS)
    for _ in range(n_steps):
        for cache, version in zip(caches, versions, strict=True):
            store.attend(cache, version, q, rows, lengths - 1, lengths, 0.1, window)
    return store.stats()


@pytest.mark.parametrize("io", ["uring", "pread"])
def test_every_byte_is_read_once_a_step(open_store, io):
    """From the second step on the order is known: the ring is full when a layer is asked for."""
    store = open_store(1, io=io)
    stats = decode_steps(store, 4)
    assert stats["bytes_read"] == 4 * LAYERS * LAYER_BYTES
    assert stats["bytes_read_in_vain"] == 0
    staging = stats["staging_bytes"]
    ahead = (4 - 1) * LAYERS - 1  # calls that had a guess before them
    assert ahead * staging / 2 <= stats["bytes_read_ahead"] <= stats["bytes_read"]


def test_reads_of_the_next_layer_begin_in_this_one(open_store):
    store = open_store(1)
    decode_steps(store, 3)
    events = trace_events(store.trace())
    calls = events[events["kind"] == TraceKind.attend][-LAYERS:]
    ahead = events[events["kind"] == TraceKind.read_ahead]
    for call, following in itertools.pairwise(calls):
        begun = ahead[(ahead["begin_ns"] > call["begin_ns"]) & (ahead["begin_ns"] < call["end_ns"])]
        assert len(begun) > 0
        assert np.all(begun["begin_ns"] < following["begin_ns"])


def test_the_trace_has_every_byte(open_store):
    store = open_store(2)
    stats = decode_steps(store, 2)
    events = trace_events(store.trace())
    reads = events[(events["kind"] == TraceKind.read) | (events["kind"] == TraceKind.read_ahead)]
    in_flight = stats["staging_bytes"]  # what is read ahead of a third step may be there already
    assert stats["bytes_read"] <= reads["bytes"].sum() <= stats["bytes_read"] + in_flight
    assert set(reads["device"]) == {0, 1}
    writes = events[events["kind"] == TraceKind.write]
    assert writes["bytes"].sum() == stats["bytes_written"] == LAYERS * LAYER_BYTES
    computed = events[events["kind"] == TraceKind.compute]
    assert computed["bytes"].sum() == 2 * LAYERS * LAYER_BYTES
    assert len(events[events["kind"] == TraceKind.attend]) == 2 * LAYERS
    assert np.all(events["end_ns"] >= events["begin_ns"])


def test_no_trace(open_store):
    store = open_store(1, trace_events=0)
    decode_steps(store, 1)
    assert len(store.trace()["kind"]) == 0


def test_a_window_that_moves(open_store):
    """The guess is of whole windows: next to nothing is read in vain."""
    stats = decode_steps(open_store(1), 3, window=200)
    assert stats["bytes_read_in_vain"] == 0
