"""Ctrl-C and SIGTERM: stop at the next safe point, or at once when asked twice.

Python runs a signal handler only between two of its own instructions, and one compiled call over
a long context can last minutes. So a thread watches too: it says that the stop was heard, and it
ends the process at a second signal, whatever the main thread is doing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal asked the command to stop. Not an `Exception`: nothing on the way is to catch it."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


@contextlib.contextmanager
def raise_on_signals(say: Callable[[str], None]) -> Iterator[None]:
    """Raise `Interrupted` in the main thread at the first signal, end the process at the second."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    watcher = threading.Thread(target=_watch, args=(ours, say), daemon=True)
    before = {signum: signal.signal(signum, _interrupt) for signum in _SIGNALS}
    wakeup_before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup_before)
        for signum, handler in before.items():
            signal.signal(signum, handler)
        theirs.close()
        watcher.join()
        ours.close()


def _interrupt(signum: int, _frame: object) -> None:
    for other in _SIGNALS:  # the second one is the watcher's
        signal.signal(other, lambda *_: None)
    raise Interrupted(signum)


def _watch(signals: socket.socket, say: Callable[[str], None]) -> None:
    heard = 0
    while received := signals.recv(1):
        if received[0] in _SIGNALS:
            heard += 1
            if heard > 1:
                os._exit(128 + received[0])
            say("stopping after the running step; once more to stop at once")
