"""A card that dies or hangs: the host goes on, and so do the other cards."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from xrt_probe import PROBE, Probe

from nspjax.xrt_emulator import EmulatedCards, parse_fault, run_directory


def good_runs(out: str) -> dict[tuple[int, int], int]:
    """(round, card) -> runs with results."""
    found = re.findall(r"round (\d+) card (\d+) good (\d+)", out)
    return {(int(round), int(card)): int(runs) for round, card, runs in found}


@pytest.mark.parametrize("strict_sync", [False, True], ids=["zero-copy", "strict"])
@pytest.mark.parametrize("fault", ["die", "die-in-run"])
def test_a_card_dies_at_its_third_run(probe: Probe, tmp_path, fault, strict_sync):
    """And is there again when it is opened again."""
    ended = probe.run(
        tmp_path, "survive", 3, 2, 20,
        cards=3, strict_sync=strict_sync, faults=(f"{fault}:after=3:card=1",),
    ).good()  # fmt: skip
    assert good_runs(ended.out) == {
        (round, card): 2 if card == 1 else 20 for round in (0, 1) for card in range(3)
    }
    reasons = [event["reason"] for event in ended.events("exit") if event["card"] == 1]
    assert reasons == [f"fault {fault}"] * 2


def test_a_run_that_never_ends(probe: Probe, tmp_path):
    ended = probe.run(tmp_path, "watchdog", cards=2, faults=("hang:after=1:card=0",)).good()
    assert ended.out.strip() == "hangs"
    assert ended.processes == []


def test_cards_are_killed_at_random(probe: Probe, tmp_path):
    stop = threading.Event()
    killed: list[int] = []

    def kill_now_and_then() -> None:
        while not stop.wait(0.03):
            for directory in tmp_path.glob("nspjax-xrt-*"):
                for pid in run_directory.device_processes(directory)[-1:]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)

    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        ended = probe.run(tmp_path, "survive", 4, 20, 20, cards=4)
    finally:
        stop.set()
        killer.join()
    assert ended.code == 0, ended.err
    assert ended.processes == []
    runs = good_runs(ended.out)
    assert len(runs) == 80
    lost = sum(good < 20 for good in runs.values())
    assert 0 < lost < 80
    assert lost <= len(killed), "a card that nobody killed has failed"


def test_p2p_memory_is_refused(probe: Probe, tmp_path):
    refused = probe.run(tmp_path, "get-p2p", faults=("no-p2p",)).good()
    assert refused.out.startswith("refused")
    assert all(event["kind"] != "p2p" for event in refused.events("allocate"))
    assert probe.run(tmp_path, "get-p2p").good().out.strip() == "granted"


def test_an_xclbin_of_another_kernel(probe: Probe, tmp_path):
    ended = probe.run(tmp_path, "open", "probe", 0, faults=("xclbin=kernel-name",))
    assert ended.code == 1
    assert "No such kernel" in ended.err


def test_a_truncated_xclbin(probe: Probe, tmp_path):
    """XRT reads beyond the end of what it was given, so a host has to look first."""
    ended = probe.run(tmp_path, "open", "probe", 0, faults=("xclbin=truncated",))
    assert ended.code != 0
    assert not ended.events("load")
    assert ended.processes == []


def test_a_card_that_there_is_not(probe: Probe, tmp_path):
    ended = probe.run(tmp_path, "open", "probe", 2, cards=2)
    assert ended.code == 1
    assert "No such device with index '2'" in ended.err


def test_an_xclbin_of_other_arguments(probe: Probe, tmp_path):
    cards = EmulatedCards(faults=(parse_fault("xclbin=arguments", 1),), kernels=(PROBE,))
    xclbin = tmp_path / "other.xclbin"
    xclbin.write_bytes(cards.xclbin(b"bitstream"))
    described = probe.run(tmp_path, "describe", xclbin).good().out
    assert "argument n_tiles int 10 4\nargument in void* 18 8\n" in described


def test_an_answer_that_does_not_come(probe: Probe, tmp_path):
    """A stopped process is given up, within 10 s."""
    stopped: list[int] = []

    def stop_one() -> None:
        while not stopped:
            for directory in tmp_path.glob("nspjax-xrt-*"):
                log = tmp_path / "log"
                if log.exists() and "run_end" in log.read_text():
                    for pid in run_directory.device_processes(Path(directory)):
                        os.kill(pid, signal.SIGSTOP)
                        stopped.append(pid)
            time.sleep(0.001)

    stopper = threading.Thread(target=stop_one, daemon=True)
    stopper.start()
    begin = time.monotonic()
    ended = probe.run(tmp_path, "survive", 1, 1, 5000)
    assert ended.code == 0, ended.err
    assert good_runs(ended.out)[0, 0] < 5000
    assert time.monotonic() - begin < 14  # 8 s for the answer, 2 s for the end
    assert ended.processes == []
