"""Runs the probe host with emulated cards, in this process's environment."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from nspjax.xrt_emulator import Argument, EmulatedCards, Kernel, emulated_cards, parse_fault
from nspjax.xrt_emulator.run_directory import device_processes

PROBE = Kernel(
    "probe",
    (
        Argument("in"),
        Argument("out"),
        Argument("n", "unsigned"),
        Argument("run", "unsigned"),
        Argument("delay_us", "unsigned"),
    ),
)


@dataclasses.dataclass(frozen=True)
class Ended:
    """A scenario that ended, and what it left."""

    code: int
    out: str
    err: str
    log: list[dict[str, Any]]
    processes: list[int]

    def good(self) -> Ended:
        assert (self.code, self.err) == (0, ""), self
        return self

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.log if event["event"] == name]


@dataclasses.dataclass(frozen=True)
class Probe:
    """The compiled host and kernel."""

    host: Path
    kernel: Path

    def run(
        self,
        directory: Path,
        *scenario: object,
        cards: int = 1,
        compute_units: int = 1,
        strict_sync: bool = False,
        faults: tuple[str, ...] = (),
    ) -> Ended:
        """One scenario of probe_host.cc to its end, its run directory under `directory`."""
        log = directory / "log"
        emulated = EmulatedCards(
            cards,
            compute_units,
            strict_sync,
            tuple(parse_fault(text, cards) for text in faults),
            log,
            (PROBE,),
            self.kernel,
        )
        with emulated_cards(emulated, directory) as variables:
            done = subprocess.run(
                [self.host, *map(str, scenario)],
                env=os.environ | variables,
                capture_output=True,
                text=True,
                timeout=60,
                start_new_session=True,
            )
            processes = device_processes(Path(variables["NSPJAX_XRT_EMULATOR_RUN"]))
        lines = log.read_text().splitlines() if log.exists() else []
        return Ended(
            done.returncode, done.stdout, done.stderr, [json.loads(x) for x in lines], processes
        )
