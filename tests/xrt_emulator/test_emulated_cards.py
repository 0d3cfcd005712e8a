"""XRT's own libraries on emulated cards: what a host gets, and what the log says."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from xrt_probe import PROBE, Ended, Probe

from nspjax.xrt_emulator import Xclbin

WORDS = 5000
BOTH_SYNCS = pytest.mark.parametrize("strict_sync", [False, True], ids=["zero-copy", "strict"])


@BOTH_SYNCS
@pytest.mark.parametrize(("cards", "compute_units"), [(1, 1), (4, 3), (16, 1)])
def test_runs_on_all_cards_at_once(probe: Probe, tmp_path, cards, compute_units, strict_sync):
    threads = compute_units + 1
    ended = probe.run(
        tmp_path, "runs", cards, threads,
        cards=cards, compute_units=compute_units, strict_sync=strict_sync,
    ).good()  # fmt: skip
    assert len(ended.events("run_end")) == cards * threads * 5
    assert {event["card"] for event in ended.events("run_end")} == set(range(cards))
    assert [event["reason"] for event in ended.events("exit")] == ["closed"] * cards
    for sync in ended.events("to_device") + ended.events("to_host"):
        assert sync["copied"] == strict_sync


def test_compute_units_run_at_the_same_time(probe: Probe, tmp_path):
    ended = probe.run(tmp_path, "overlap", 4, compute_units=4).good()
    assert float(ended.out) < 0.7, "four runs of 0.2 s"
    units = {event["compute_unit"] for event in ended.events("run_begin")}
    assert units == {f"probe_{i}" for i in range(1, 5)}


def test_one_compute_unit_runs_one_after_the_other(probe: Probe, tmp_path):
    assert float(probe.run(tmp_path, "overlap", 3).good().out) >= 0.6


@pytest.mark.parametrize("forgotten", ["to-device", "to-host"])
def test_a_forgotten_sync_is_seen_in_strict_mode_only(probe: Probe, tmp_path, forgotten):
    def results(strict_sync: bool, what: str) -> str:
        return probe.run(tmp_path, "forget", what, strict_sync=strict_sync).good().out.strip()

    assert results(True, "nothing") == "right"
    assert results(False, forgotten) == "right"
    assert results(True, forgotten) == "wrong"


@BOTH_SYNCS
def test_a_drive_reads_into_and_writes_from_p2p_memory(probe: Probe, tmp_path, strict_sync):
    file = tmp_path / "data"
    data = struct.pack(f"<{WORDS}I", *range(WORDS))
    file.write_bytes(data.ljust(20480, b"\0"))
    ended = probe.run(tmp_path, "p2p", file, strict_sync=strict_sync).good()
    written = struct.unpack(f"<{WORDS}I", file.read_bytes()[: 4 * WORDS])
    assert written == tuple(9 * 1000003 + i for i in range(WORDS))

    (run,) = ended.events("run_begin")
    source = run["arguments"]["in"]
    assert source["kind"] == "p2p"
    assert source["shared"]
    assert run["arguments"]["out"]["shared"] != strict_sync
    assert run["arguments"]["n"] == WORDS
    assert not touching(ended, source["address"], 4 * WORDS), "it went another way"
    assert touching(ended, run["arguments"]["out"]["address"], 4 * WORDS)


def touching(ended: Ended, address: int, n_bytes: int) -> list[dict]:
    """The syncs of any byte in this range."""
    syncs = ended.events("to_device") + ended.events("to_host")
    return [
        s for s in syncs if s["address"] < address + n_bytes and address < s["address"] + s["bytes"]
    ]


def test_an_xclbin_is_loaded_while_another_cards_buffers_are_mapped(probe: Probe, tmp_path):
    probe.run(tmp_path, "load-late", cards=2).good()


def test_a_card_is_opened_twice(probe: Probe, tmp_path):
    probe.run(tmp_path, "open-twice").good()


@pytest.mark.parametrize("code", [0, 3])
def test_a_host_that_does_not_close_its_cards(probe: Probe, tmp_path, code):
    ended = probe.run(tmp_path, "leave-open", code)
    assert (ended.code, ended.err) == (code, "")
    assert not list(tmp_path.glob("nspjax-xrt-*"))


def test_xrt_reads_the_xclbin(probe: Probe, tmp_path):
    xclbin = tmp_path / "probe.xclbin"
    xclbin.write_bytes(Xclbin((PROBE,), 2).to_bytes(b"bitstream"))
    assert probe.run(tmp_path, "describe", xclbin).good().out.splitlines() == [
        "kernel probe",
        "argument in void* 10 8",
        "argument out void* 1c 8",
        "argument n unsigned 28 4",
        "argument run unsigned 30 4",
        "argument delay_us unsigned 38 4",
        "unit probe:probe_1 1400000",
        "unit probe:probe_2 1410000",
        "bank bank0 0 4194304",
    ]


def test_nothing_is_left_in_tmp(probe: Probe, tmp_path):
    before = set(Path("/tmp").iterdir())
    ended = probe.run(tmp_path, "runs", 2, 1, cards=2).good()
    assert ended.processes == []
    new = {path.name for path in set(Path("/tmp").iterdir()) - before}
    assert not {name for name in new if name.startswith(("device", "xcl"))}, "sockets of the shim"
    assert not list(tmp_path.glob("nspjax-xrt-*"))
