"""fio (github.com/axboe/fio) as the measure of a disk: whole files, O_DIRECT, io_uring.

Its buffers are registered with the kernel (--fixedbufs), as the engine's are: without that fio
reads this machine's disk at half to two thirds of the rate. The engine asks for huge pages, which
make a sixth more, and up to as much again; fio takes them only from those that were set aside, so
its settings with them are tried where the system has some:

    echo 300 > /proc/sys/vm/nr_hugepages
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from statistics import median
from typing import Literal

from turns import in_turn

Direction = Literal["read", "write"]


@dataclasses.dataclass(frozen=True)
class FioSetting:
    """What is tuned: the size of a request and how many are in flight."""

    block_mib: int
    depth: int
    huge_pages: bool = False

    def __str__(self) -> str:
        return f"{self.block_mib} MiB × {self.depth}{', huge pages' if self.huge_pages else ''}"


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What fio reports of a job."""

    n_bytes: int
    seconds: float

    @property
    def gb_per_second(self) -> float:
        return self.n_bytes / self.seconds / 1e9


DEPTHS = ((1, 8), (1, 32), (1, 128), (4, 4), (4, 8), (4, 32))
"""Blocks in MiB, and how many are in flight."""
SPARE_HUGE_PAGES = 2


def settings() -> list[FioSetting]:
    """Those that can be tried here."""
    small = [FioSetting(block, depth) for block, depth in DEPTHS]
    free_mib = 2 * (_free_huge_pages() - SPARE_HUGE_PAGES)
    huge = [dataclasses.replace(setting, huge_pages=True) for setting in small]
    return small + [setting for setting in huge if setting.block_mib * setting.depth <= free_mib]


def _free_huge_pages() -> int:
    """Of 2 MiB."""
    pool = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
    return int(pool.read_text()) if pool.exists() else 0


def transfer(
    direction: Direction,
    path: Path,
    n_bytes: int,
    setting: FioSetting,
    *,
    fresh: bool = False,
    loops: int = 1,
) -> Transfer:
    """Read or write the file from its begin to its end, `loops` times.

    A write ends with fsync, which is part of its time. fresh: write a new file, not over an old
    one's blocks.
    """
    if fresh:
        path.unlink(missing_ok=True)
    command = [
        "fio",
        f"--name={direction}",
        f"--filename={path}",
        f"--rw={direction}",
        f"--size={n_bytes}",
        f"--bs={setting.block_mib}M",
        f"--iodepth={setting.depth}",
        "--ioengine=io_uring",
        "--fixedbufs=1",
        f"--iomem={'shmhuge' if setting.huge_pages else 'malloc'}",
        "--direct=1",
        f"--loops={loops}",
        "--output-format=json",
    ]
    if direction == "write":
        command.append("--end_fsync=1")
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    report = json.loads(done.stdout[done.stdout.index("{") :])  # a warning may stand before it
    job = report["jobs"][0]
    if job["error"] or job[direction]["io_bytes"] != loops * n_bytes:
        moved = job[direction]["io_bytes"]
        raise RuntimeError(f"fio moved {moved} of {loops * n_bytes} bytes: {command}")
    # job_runtime holds the fsync of a write; a read's own runtime has no start-up in it
    milliseconds = job[direction]["runtime"] if direction == "read" else job["job_runtime"]
    return Transfer(loops * n_bytes, milliseconds / 1e3)


def sweep(
    direction: Direction,
    path: Path,
    n_bytes: int,
    rounds: int = 3,
) -> dict[FioSetting, float]:
    """The median rate of every setting, GB/s, taken in turn on one file of n_bytes."""
    tried = settings()
    arms = {
        str(setting): lambda setting=setting: transfer(
            direction, path, n_bytes, setting, fresh=direction == "write"
        )
        for setting in tried
    }
    measured = in_turn(arms, rounds, warm_ups=0)
    return {
        setting: median(each.gb_per_second for each in measured[str(setting)]) for setting in tried
    }


def best(rates: dict[FioSetting, float]) -> FioSetting:
    return max(rates, key=lambda setting: rates[setting])


def sweep_text(rates: dict[FioSetting, float]) -> str:
    """One line for the report: every setting and its rate."""
    return "fio, block × depth: " + ", ".join(f"{s}: {rate:.2f}" for s, rate in rates.items())


def sweep_json(rates: dict[FioSetting, float]) -> dict[str, float]:
    return {str(setting): rate for setting, rate in rates.items()}
