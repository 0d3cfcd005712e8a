"""What emulation needs of this machine."""

from __future__ import annotations

import dataclasses
import importlib.util
import platform
import sys
from pathlib import Path

from nspjax.errors import EmulatorError

_SHIM = "libxrt_swemu.so.2"
_LIBRARY_DIRECTORIES = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/opt/xilinx/xrt/lib",
)
_PROGRAM = "nspjax_xrt_card"
_WRAPPER = "libnspjax_xrt_shim.so"
_ATTENTION = "libnspjax_xrt_attention.so"


@dataclasses.dataclass(frozen=True)
class Installation:
    """Where the parts are."""

    shim: Path
    """XRT's software-emulation shim, as the system has it"""
    wrapper: Path
    """ours around it; the device process lies beside it"""
    attention: Path
    """the attention kernel's shared object"""


def missing() -> str | None:
    """Why cards cannot be emulated here; None where they can."""
    try:
        find_installation()
    except EmulatorError as error:
        return str(error)
    return None


def find_installation() -> Installation:
    """Raises EmulatorError where a part is missing, which says what to do."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise EmulatorError(
            f"cards are emulated on x86-64 Linux, this is {platform.machine()} {sys.platform}"
        )
    shim = next((path for d in _LIBRARY_DIRECTORIES if (path := Path(d, _SHIM)).exists()), None)
    if shim is None:
        raise EmulatorError(
            f"{_SHIM} of the Xilinx runtime is not installed: apt-get install libxrt-dev "
            "(Debian 12, 13)"
        )
    binaries = binary_directory()
    wrapper, program = binaries / _WRAPPER, binaries / _PROGRAM
    for path in (wrapper, program):
        if not path.exists():
            raise EmulatorError(
                f"{path} is missing: this nspjax was built without its emulator; build it on "
                "x86-64 Linux (make install)"
            )
    return Installation(shim, wrapper, binaries / _ATTENTION)


def binary_directory() -> Path:
    """Beside the compiled engine, wherever that was installed."""
    engine = importlib.util.find_spec("nspjax._engine")
    if engine is None or engine.origin is None:
        raise EmulatorError("nspjax was not built: nspjax._engine is missing; make install")
    return Path(engine.origin).parent / "xrt_emulator_bin"
