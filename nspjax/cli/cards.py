"""Cards beside drives: which there are, and what one of a store has."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any


@dataclasses.dataclass(frozen=True)
class InstalledCard:
    """One that XRT knows, whether or not it has our kernel."""

    index: int
    name: str
    """of its platform; why, where it cannot be opened"""
    address: str
    """on the PCI bus; empty: it cannot be opened"""


@dataclasses.dataclass(frozen=True)
class StoreCard:
    """The card of a store, with its kernel loaded."""

    index: int
    platform: str
    address: str
    """on the PCI bus; empty: XRT does not tell, as in emulation"""
    xclbin: str
    kernel: str
    compute_units: int
    timeout_s: float


def installed_cards() -> list[InstalledCard] | None:
    """What pyxrt lists; None: there is no pyxrt, which comes with an XRT installation."""
    try:
        pyxrt = importlib.import_module("pyxrt")
    except ImportError:
        return None
    return [_installed_card(pyxrt, index) for index in range(pyxrt.enumerate_devices())]


def _installed_card(pyxrt: Any, index: int) -> InstalledCard:
    what = pyxrt.xrt_info_device
    try:
        device = pyxrt.device(index)
        return InstalledCard(index, device.get_info(what.name), device.get_info(what.bdf))
    except RuntimeError as error:  # the others are shown nevertheless
        return InstalledCard(index, f"cannot be opened: {error}", "")


def store_card(spec: str) -> tuple[StoreCard, str]:
    """The card of "xrt:INDEX?xclbin=FILE&path=DIRECTORY", and the directory.

    Raises:
      AcceleratorError: no XRT, no such card, or no such kernel; says which.
    """
    from nspjax import _engine

    found = _engine.card_info(spec)
    path = found.pop("path")
    return StoreCard(**found), path
