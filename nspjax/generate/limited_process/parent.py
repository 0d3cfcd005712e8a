"""The other end of `child`: starts the process, asks it, and ends it when it takes too long."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import weakref

from nspjax.errors import NspjaxError
from nspjax.generate.limited_process.child import READY, receive, send

_START_SECONDS = 120.0


class ProcessDiedError(NspjaxError):
    """The process ended at what it was asked. Its text says how."""


class LimitedProcess:
    """`python -m module`, which is started when it is first asked, and again after it was ended.

    Several threads may ask; a forked child starts its own.

    Args:
      module: what runs `child.run`.
      task: what it does, for messages: "the process that renders chat templates".
      most_answer_bytes: an answer that is longer ends the process.
    """

    def __init__(self, module: str, *, task: str, most_answer_bytes: int) -> None:
        self._module = module
        self._task = task
        self._most_answer_bytes = most_answer_bytes
        self._forget()

    def ask(self, request: bytes, *, seconds: float) -> bytes:
        """The answer.

        Raises:
          TimeoutError: it took longer than `seconds`.
          ProcessDiedError: the process ended at the request.
          NspjaxError: the process cannot be started.
        """
        if self._pid != os.getpid():
            self._forget()
        with self._lock:
            try:
                return self._answer(request, seconds)
            except BaseException:  # what is asked and what is answered would not belong together
                self._end()
                raise

    def close(self) -> None:
        """End the process. The next request would start another."""
        if self._pid == os.getpid():
            with self._lock:
                self._end()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    def _answer(self, request: bytes, seconds: float) -> bytes:
        if self._worker is not None:
            if (answer := self._worker.ask(request, seconds)) is not None:
                return answer
            self._end()  # it may have died before this request, which has another try
        self._worker = _Worker(self._module, self._task, self._most_answer_bytes)
        if (answer := self._worker.ask(request, seconds)) is not None:
            return answer
        raise ProcessDiedError(str(self._worker.end()))

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None


class _Worker:
    """One process. It ends with this object, with `end`, and with our process.

    Raises:
      NspjaxError: it cannot be started.
    """

    def __init__(self, module: str, task: str, most_answer_bytes: int) -> None:
        self._most_answer_bytes = most_answer_bytes
        self._connection, theirs = socket.socketpair()
        with theirs:
            try:
                process = subprocess.Popen(
                    # -P: a file beside which we run must not pass for a module
                    [sys.executable, "-P", "-Wignore", "-m", module, str(os.getpid())],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is ours to hear
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )
            except OSError as error:
                self._connection.close()
                raise NspjaxError(f"{task} cannot be started: {error}") from error
        self.end = weakref.finalize(self, _end, process, self._connection, os.getpid())
        """Ends the process, and says how it had ended."""
        self._connection.settimeout(_START_SECONDS)
        try:
            ready = receive(self._connection, most_answer_bytes)
        except BaseException:
            self.end()
            raise
        if ready != READY:
            raise NspjaxError(f"{task} cannot be started: it ended with {self.end()}")

    def ask(self, request: bytes, seconds: float) -> bytes | None:
        """The answer; None: the process has died.

        Raises:
          TimeoutError: it took longer than `seconds`.
        """
        self._connection.settimeout(seconds)
        try:
            send(self._connection, request)
            return receive(self._connection, self._most_answer_bytes)
        except TimeoutError:
            raise
        except OSError:
            return None


def _end(process: subprocess.Popen[bytes], connection: socket.socket, pid: int) -> str:
    connection.close()
    if pid != os.getpid():  # a forked child, whose parent's process this is
        return ""
    process.kill()
    code = process.wait()
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
