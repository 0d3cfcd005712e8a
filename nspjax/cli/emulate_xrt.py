"""`nspjax emulate-xrt`: run a command with emulated SmartSSDs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from nspjax.cli.exit_code import ExitCode
from nspjax.errors import InvalidArgumentError, NspjaxError
from nspjax.xrt_emulator import EmulatedCards, emulated_cards, parse_fault


@dataclasses.dataclass(frozen=True)
class EmulateXrt:
    """What was asked on the command line."""

    command: tuple[str, ...]
    cards: int = 1
    compute_units: int = 1
    strict_sync: bool = False
    faults: tuple[str, ...] = ()
    log: str | None = None
    directory: str | None = None


def execute(options: EmulateXrt) -> int:
    """Run the command to its end. Returns its exit code, 128 + n after signal n."""
    try:
        cards = _cards(options)
        parent = None if options.directory is None else Path(options.directory)
        with _signals_held() as mask, emulated_cards(cards, parent) as variables:
            return _run(options.command, os.environ | variables, mask)
    except NspjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return ExitCode.REFUSED


def _cards(options: EmulateXrt) -> EmulatedCards:
    """Raises InvalidArgumentError for an option that cannot be served."""
    if options.log is not None and not Path(options.log).absolute().parent.is_dir():
        raise InvalidArgumentError(f"--log {options.log}: there is no such directory")
    return EmulatedCards(
        options.cards,
        options.compute_units,
        options.strict_sync,
        tuple(parse_fault(text, options.cards) for text in options.faults),
        None if options.log is None else Path(options.log),
    )


_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_Mask = set[int | signal.Signals]


@contextlib.contextmanager
def _signals_held() -> Iterator[_Mask]:
    """Until the command runs, and while its directory is removed. Gives the mask before."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    try:
        yield mask
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _run(command: tuple[str, ...], environment: dict[str, str], mask: _Mask) -> int:
    """In a session of its own, with this signal mask; signals go to its process group, as from a
    terminal."""
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(signum: int, _frame: object = None) -> None:
        if process is None:
            early.append(signum)
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signum)

    before = {signum: signal.signal(signum, forward) for signum in _FORWARDED}
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        for signum in early:
            forward(signum)
        code = process.wait()
    except OSError as error:
        raise InvalidArgumentError(f"cannot run {command[0]}: {error.strerror}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
        for signum, handler in before.items():
            signal.signal(signum, handler)
    return code if code >= 0 else 128 - code
