"""Emulated SmartSSDs: the real XRT, with device processes of ours where cards would be.

`nspjax emulate-xrt -- COMMAND` is the way in. What is emulated, and what is not, is in
csrc/xrt_emulator/README.md.
"""

from nspjax.xrt_emulator.cards import EmulatedCards
from nspjax.xrt_emulator.faults import Fault, parse_fault
from nspjax.xrt_emulator.installation import missing
from nspjax.xrt_emulator.run_directory import emulated_cards, environment
from nspjax.xrt_emulator.xclbin import ATTENTION, Argument, Kernel, Xclbin

__all__ = [
    "ATTENTION",
    "Argument",
    "EmulatedCards",
    "Fault",
    "Kernel",
    "Xclbin",
    "emulated_cards",
    "environment",
    "missing",
    "parse_fault",
]
