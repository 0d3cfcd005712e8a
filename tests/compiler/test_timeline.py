"""When things happen on a machine of given rates, counted by hand; and as a picture."""

import dataclasses
import itertools
import math
import re

import pytest
from counted_modules import (
    DOT,
    KV_TOKEN,
    Q_BYTES,
    RATES,
    append,
    attend,
    dot,
    main,
    prefetch,
    start,
    wait,
    writeback,
)

from nspjax.compiler.machine.lanes import Lane
from nspjax.compiler.machine.picture import layers_svg
from nspjax.compiler.machine.rates import Rates
from nspjax.compiler.machine.timeline import Schedule


def spans(body, lane=None, n_layers=2, rates=RATES):
    found = Schedule.of(main(body, n_layers=n_layers)).on(rates).spans
    rounded = [(s.label, round(s.begin_s, 3), round(s.end_s, 3)) for s in found if s.lane is lane]
    return sorted(rounded, key=lambda span: span[1:])


def test_attend_waits():
    body = dot() + attend(0) + dot() + dot()
    assert spans(body, Lane.device) == [("attend L0", 0.25, 1.25)]
    assert spans(body, Lane.compute) == [("matmul", 0, 0.25), ("2 matmuls", 1.25, 1.75)]


def test_what_is_between_start_and_wait_overlaps():
    body = start(0) + dot() + wait(0) + dot()
    assert spans(body, Lane.device) == [("attend L0", 0, 1)]
    assert spans(body, Lane.compute) == [("matmul", 0, 0.25), ("matmul", 1, 1.25)]


def test_the_device_takes_one_at_a_time():
    body = start(0) + start(1) + wait(0) + dot() + wait(1)
    assert spans(body, Lane.device) == [("attend L0", 0, 1), ("attend L1", 1, 2)]
    assert spans(body, Lane.compute) == [("matmul", 1, 1.25)]


def test_prefetch_is_not_read_again():
    half = 200 * KV_TOKEN
    between = "".join(dot() for _ in range(8))
    body = prefetch(1, most_bytes=half) + attend(0) + between + attend(1)
    assert spans(body, Lane.device) == [
        ("attend L0", 0, 1),
        ("prefetch L1", 1, 1.5),
        ("attend L1", 3, 3.5),
    ]


def test_what_the_engine_guesses():
    body = attend(0, read_ahead="true") + dot() + attend(1, read_ahead="true")
    assert spans(body, Lane.device) == [("attend L0", 0, 1), ("read ahead L1", 1, 2)]


def test_writes():
    slow = Rates(4 * KV_TOKEN, 1e12, RATES.compute_flops)  # a token a second
    beside = spans(append(0) + dot() + attend(1), Lane.writes, rates=slow)
    assert beside == [("append L0", 0, 1)]
    held = append(0, hold="true") + start(1) + writeback(0, exclusive="{0}") + start(0) + wait(1)
    for exclusive, written, scanned in (("false", (0, 1), 100), ("true", (100, 101), 101)):
        body = held.replace("{0}", exclusive)
        assert spans(body, Lane.writes, rates=slow) == [("write back L0", *written)]
        assert spans(body, Lane.device, rates=slow)[1][1] == scanned


def test_writes_have_a_rate_of_their_own():
    slow = Rates(4 * KV_TOKEN, 1e12, RATES.compute_flops, write_bytes_per_s=KV_TOKEN)
    assert spans(append(0), Lane.writes, rates=slow) == [("append L0", 0, 4)]


def test_products_wait_for_their_operands():
    rates = dataclasses.replace(RATES, memory_bytes_per_s=DOT.memory_bytes / 2)
    assert spans(dot(), Lane.compute, rates=rates) == [("matmul", 0, 2)]
    fast = dataclasses.replace(rates, memory_bytes_per_s=1e12)
    assert spans(dot(), Lane.compute, rates=fast) == [("matmul", 0, 0.25)]


def test_no_more_is_read_ahead_than_there_is_room_for():
    rates = dataclasses.replace(RATES, read_ahead_bytes=100 * KV_TOKEN)  # a quarter of a scan
    between = "".join(dot() for _ in range(8))
    body = attend(0, read_ahead="true") + between + attend(1, read_ahead="true")
    assert spans(body, Lane.device, rates=rates) == [
        ("attend L0", 0, 1),
        ("read ahead L1", 1, 1.25),
        ("attend L1", 3, 3.75),
    ]
    # what was announced and did not fit is read ahead when there is room again
    later = "".join(dot() for _ in range(8))
    body = prefetch(1) + prefetch(2) + attend(0) + between + attend(1) + later + attend(2)
    assert spans(body, Lane.device, n_layers=3, rates=rates) == [
        ("attend L0", 0, 1),
        ("prefetch L1", 1, 1.25),
        ("attend L1", 3, 3.75),
        ("prefetch L2", 3.75, 4),
        ("attend L2", 5.75, 6.5),
    ]


def test_attention_on_the_processors_of_the_compute_device():
    """As long as a pass over K and V in memory, hidden as far as nothing else is computed."""
    rates = dataclasses.replace(
        RATES, processors_apart=False, memory_bytes_per_s=400 * KV_TOKEN / 0.5
    )
    waits = start(0) + wait(0) + start(1) + "".join(dot() for _ in range(3)) + wait(1)
    assert spans(waits, Lane.compute, rates=rates) == [
        ("attend L0", 0.5, 1),
        ("3 matmuls", 1, 1.75),
        ("attend L1", 1.75, 2.25),
    ]


def test_hauled_keys_and_values_are_attended_at_their_rate():
    rates = dataclasses.replace(RATES, attend_bytes_per_s=100 * KV_TOKEN)
    body = attend(0, op="haul", more="chunk_tokens = 64 : i64")
    ((label, begin_s, end_s),) = spans(body, Lane.compute, rates=rates)
    assert (label, begin_s) == ("attend L0", 0)
    assert end_s == pytest.approx(4 + 4 * 4 * 4 * 8 * 100 / RATES.compute_flops, abs=1e-3)


def test_the_link_takes_one_at_a_time():
    rates = Rates(1e12, Q_BYTES, 1e12)
    body = append(0) + attend(0)
    queued = spans(body, Lane.link, rates=rates)
    assert [label for label, _, _ in queued] == ["append L0", "q L0", "out L0"]
    assert all(a[2] <= b[1] for a, b in itertools.pairwise(queued))
    assert queued[1][2] - queued[1][1] == 1


def test_layers_begin():
    schedule = Schedule.of(main(attend(1) + dot() + attend(0), n_layers=2)).on(RATES)
    assert [round(begin_s, 3) for begin_s in schedule.layer_begins_s] == [0, 1.25]
    assert round(schedule.end_s, 3) == 2.25
    assert round(schedule.busiest_s, 3) == 2, "the device"


def boxes(svg):
    """(x, width, hint) of each labelled box, and (x, y, text) of each text."""
    found = re.findall(r'<rect x="([\d.]+)"[^>]*? width="([\d.]+)"[^>]*><title>([^<]*)', svg)
    texts = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]*)<', svg)
    return found, texts


def test_two_layers_in_the_middle():
    body = "".join(append(layer) + attend(layer) + dot() for layer in range(4))
    svg = layers_svg(Schedule.of(main(body, n_layers=4)).on(RATES), RATES)
    found, texts = boxes(svg)
    labels = {label for _, _, label in texts}
    assert {"attend L1", "attend L2", "append L1", "append L2", "matmul"} <= labels
    assert not {"attend L0", "attend L3"} & labels
    assert "layers 1 to 2 of 4" in svg
    width = int(re.search(r'width="(\d+)"', svg)[1])
    assert all(float(x) >= 0 and float(x) + float(w) <= width for x, w, _ in found)
    scans = [float(w) for _, w, hint in found if hint == "attend L1: 1 s"]
    products = [float(w) for _, w, hint in found if hint == "matmul: 250 ms"]
    assert math.isclose(scans[0], 4 * products[0], rel_tol=0.01)


def test_labels_are_beside_each_other():
    """Many short boxes: every one has its label, and none is on another."""
    rates = Rates(1e12, 1e9, 1e3)
    body = dot() + "".join(append(layer) + attend(layer) for layer in range(5)) + dot()
    svg = layers_svg(Schedule.of(main(body, n_layers=5)).on(rates), rates, n_layers=9)
    found, texts = boxes(svg)
    for hint in {hint.partition(":")[0] for _, _, hint in found}:
        assert hint in {label for _, _, label in texts}
    placed = [(float(y), float(x), x2) for x, y, t in texts for x2 in [float(x) + 6 * len(t)]]
    starts = [p for p, (_, _, text) in zip(placed, texts, strict=True) if " L" in text]
    for (y1, begin1, end1), (y2, begin2, end2) in itertools.combinations(starts, 2):
        assert y1 != y2 or end1 <= begin2 or end2 <= begin1
