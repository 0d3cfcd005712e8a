"""Faults that emulated cards have on demand, as text: `die:after=3:card=1`, `no-p2p`, …"""

from __future__ import annotations

import dataclasses
from typing import Literal

from nspjax.errors import InvalidArgumentError

RunFault = Literal["die", "die-in-run", "hang"]
XclbinFault = Literal["truncated", "kernel-name", "arguments"]
_RUN_FAULTS = ("die", "die-in-run", "hang")
_XCLBIN_FAULTS = ("truncated", "kernel-name", "arguments")

FAULTS_HELP = (
    "die, die-in-run or hang, with :after=N (its N-th run) and :card=K (else every card); no-p2p; "
    "xclbin=truncated, xclbin=kernel-name or xclbin=arguments"
)


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault.

    A card's process ends itself when its `after_runs`-th run begins (`die`) or first writes
    (`die-in-run`), or that run never ends (`hang`).
    """

    name: RunFault | Literal["no-p2p", "xclbin"]
    after_runs: int = 1
    card: int | None = None
    """None: every card"""
    xclbin: XclbinFault | None = None

    def __str__(self) -> str:
        if self.xclbin is not None:
            return f"xclbin={self.xclbin}"
        if self.name not in _RUN_FAULTS:
            return self.name
        card = "" if self.card is None else f":card={self.card}"
        return f"{self.name}:after={self.after_runs}{card}"


def parse_fault(text: str, cards: int) -> Fault:
    """The fault in `text`, for so many cards.

    Raises:
      InvalidArgumentError: no fault, or one of a card that there is not.
    """
    name, *options = text.split(":")
    if name == "no-p2p" and not options:
        return Fault("no-p2p")
    for fault in _XCLBIN_FAULTS:
        if text == f"xclbin={fault}":
            return Fault("xclbin", xclbin=fault)
    for fault in _RUN_FAULTS:
        if name == fault:
            after_runs, card = _run_options(text, options)
            if card is not None and card >= cards:
                raise InvalidArgumentError(
                    f"fault {text!r} is for card {card}, of {cards}: cards are counted from 0"
                )
            return Fault(fault, after_runs, card)
    raise InvalidArgumentError(f"{text!r} is no fault: there are {FAULTS_HELP}")


def _run_options(text: str, options: list[str]) -> tuple[int, int | None]:
    values: dict[str, int] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in ("after", "card") or key in values or not value.isdecimal():
            raise InvalidArgumentError(
                f"{option!r} in fault {text!r}: write after=N and card=K, each once"
            )
        values[key] = int(value)
    after_runs = values.get("after", 1)
    if after_runs < 1:
        raise InvalidArgumentError(f"fault {text!r}: runs are counted from 1")
    return after_runs, values.get("card")
