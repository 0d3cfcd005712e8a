"""Which cards are emulated, and how."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nspjax.errors import InvalidArgumentError
from nspjax.xrt_emulator.faults import Fault
from nspjax.xrt_emulator.xclbin import ATTENTION, Argument, Kernel, Xclbin

MOST_CARDS = 64
MOST_COMPUTE_UNITS = 16


@dataclasses.dataclass(frozen=True)
class EmulatedCards:
    """Equal cards with one xclbin.

    Raises:
      InvalidArgumentError: a number out of range.
    """

    cards: int = 1
    compute_units: int = 1
    """of each kernel, on each card"""
    strict_sync: bool = False
    """ordinary buffers have a copy in the host and one on the card, as on hardware; P2P buffers
    are shared in any case"""
    faults: tuple[Fault, ...] = ()
    log: Path | None = None
    """to which device processes append what happens, a line of JSON an event"""
    kernels: tuple[Kernel, ...] = (ATTENTION,)
    kernel_object: Path | None = None
    """the shared object with the kernels; None: the installed one, of attention"""

    def __post_init__(self) -> None:
        for what, value, most in (
            ("cards", self.cards, MOST_CARDS),
            ("compute units", self.compute_units, MOST_COMPUTE_UNITS),
        ):
            if not 1 <= value <= most:
                raise InvalidArgumentError(f"{what}: 1 to {most} can be emulated, got {value}")

    def xclbin(self, bitstream: bytes) -> bytes:
        """The xclbin that is given to the command, with its faults."""
        wrong = {fault.xclbin for fault in self.faults}
        kernels = self.kernels
        if "kernel-name" in wrong:
            kernels = tuple(dataclasses.replace(k, name=f"other_{k.name}") for k in kernels)
        if "arguments" in wrong:
            extra = Argument("n_tiles", "int")
            kernels = tuple(
                dataclasses.replace(k, arguments=(extra, *k.arguments)) for k in kernels
            )
        whole = Xclbin(kernels, self.compute_units).to_bytes(bitstream)
        return whole[: len(whole) // 2] if "truncated" in wrong else whole
