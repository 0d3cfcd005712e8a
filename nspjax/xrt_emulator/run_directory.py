"""The directory that a command with emulated cards runs with, and its environment."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from nspjax.errors import EmulatorError
from nspjax.xrt_emulator.cards import EmulatedCards
from nspjax.xrt_emulator.emconfig import emconfig
from nspjax.xrt_emulator.installation import Installation, find_installation

_PROCESS_NAME = "nspjax-xrt-card"  # argv[0] of device processes, argv[2] is the run directory
_END_LIMIT_S = 2.0


@contextlib.contextmanager
def emulated_cards(cards: EmulatedCards, parent: Path | None = None) -> Iterator[dict[str, str]]:
    """The environment variables of a command that is to see these cards.

    A run directory is made in `parent`; at the end device processes that are left are killed and
    the directory is removed; a fork's child that leaves the block does nothing. parent None: a
    temporary directory whose file system has O_DIRECT.

    Raises:
      EmulatorError: something is not installed, or the directory cannot be made.
    """
    installation = find_installation()
    try:
        made = tempfile.mkdtemp(prefix="nspjax-xrt-", dir=_temporary_parent(parent))
    except OSError as error:
        raise EmulatorError(
            f"cannot make a directory in {parent}: {error.strerror}; give another --dir"
        ) from error
    directory, process = Path(made).resolve(), os.getpid()
    try:
        yield environment(directory, cards, installation)
    finally:
        if os.getpid() == process:
            end_device_processes(directory)
            shutil.rmtree(directory, ignore_errors=True)


def environment(
    directory: Path, cards: EmulatedCards, installation: Installation | None = None
) -> dict[str, str]:
    """Write what XRT and the cards need into an empty directory; the variables that name it.

    Raises:
      EmulatorError: something is not installed.
    """
    installation = installation or find_installation()
    kernel_object = cards.kernel_object or installation.attention
    if not kernel_object.exists():
        raise EmulatorError(f"the kernel's shared object {kernel_object} is missing")
    xclbin = directory / "emulated.xclbin"
    xclbin.write_bytes(cards.xclbin(kernel_object.read_bytes()))
    (directory / "emconfig.json").write_text(emconfig(cards.cards))
    (directory / "xrt.ini").write_text("")  # else XRT takes one from the working directory
    (directory / "run").mkdir()
    libraries = directory / "xrt" / "lib"
    libraries.mkdir(parents=True)
    (libraries / "libxrt_swemu.so.2").symlink_to(installation.wrapper)
    for card in range(cards.cards):
        (directory / "drives" / f"card{card}").mkdir(parents=True)
    return variables(directory, xclbin, cards, installation)


def variables(
    directory: Path, xclbin: Path, cards: EmulatedCards, installation: Installation
) -> dict[str, str]:
    """What XRT reads, what the emulator reads, and the defaults of the xrt device."""
    xrt = {
        "XCL_EMULATION_MODE": "sw_emu",
        "XILINX_XRT": str(directory / "xrt"),
        "EMCONFIG_PATH": str(directory),
        "SDACCEL_EM_RUN_DIR": str(directory / "run"),
        "XRT_INI_PATH": str(directory / "xrt.ini"),
    }
    emulator = {
        "NSPJAX_XRT_EMULATOR_RUN": str(directory),
        "NSPJAX_XRT_EMULATOR_SHIM": str(installation.shim),
        "NSPJAX_XRT_EMULATOR_CARDS": str(cards.cards),
        "NSPJAX_XRT_EMULATOR_FAULTS": ",".join(str(f) for f in cards.faults if f.xclbin is None),
    }
    if cards.log is not None:
        emulator["NSPJAX_XRT_EMULATOR_LOG"] = str(cards.log.absolute())
    if cards.strict_sync:
        emulator["NSPJAX_XRT_EMULATOR_STRICT_SYNC"] = "1"
    device = {
        "NSPJAX_XCLBIN": str(xclbin),
        "NSPJAX_XRT_PATH": str(directory / "drives" / "card{card}"),
    }
    return xrt | emulator | device


def end_device_processes(directory: Path) -> None:
    """Waits for the device processes of a run directory, which end with their host; kills the rest.

    Only processes that say to be of this directory are touched.
    """
    deadline = time.monotonic() + _END_LIMIT_S
    while left := device_processes(directory):
        if time.monotonic() > deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def device_processes(directory: Path) -> list[int]:
    """The pids of this run directory's device processes that run."""
    pids = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            command_line = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended, or is not ours to see
        if command_line[0] == _PROCESS_NAME.encode() and os.fsencode(directory) in command_line[2:]:
            pids.append(int(entry.name))
    return pids


def _temporary_parent(parent: Path | None) -> Path:
    if parent is not None:
        return parent
    candidates = [Path(tempfile.gettempdir()), Path("/var/tmp"), Path.cwd()]
    return next((path for path in candidates if _has_o_direct(path)), candidates[0])


def _has_o_direct(directory: Path) -> bool:
    try:
        with tempfile.NamedTemporaryFile(dir=directory) as file:
            os.close(os.open(file.name, os.O_RDONLY | os.O_DIRECT))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENOSPC):
            return False
        raise
    return True
