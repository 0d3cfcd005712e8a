"""The other end of `chat_worker`: starts it, asks it, and ends it when it takes too long."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from typing import Any

from nspjax.errors import NspjaxError, RequestError
from nspjax.generate.text.chat_worker import (
    FAILED,
    MEMORY_BYTES,
    MOST_CHARACTERS,
    READY,
    REFUSED,
    receive,
    send,
)

RENDER_SECONDS = 10.0
"""The longest that one conversation may take; ordinary ones take milliseconds."""
_START_SECONDS = 120.0
_MOST_ANSWER_BYTES = 4 * MOST_CHARACTERS + 1  # 4: of a character in UTF-8


class ChatProcess:
    """Renders conversations in another process, which is started for the first of them.

    One that had to be ended is replaced at the next conversation. Several threads may use it; a
    forked child starts its own.
    """

    def __init__(self) -> None:
        self._forget()

    def render(self, template: str, messages: list[Any], variables: dict[str, Any]) -> str:
        """The text that the template makes. variables: what it sees besides the messages.

        Raises:
          RequestError: the template refused or failed, or exceeded a limit.
          NspjaxError: the process cannot be started.
        """
        try:
            request = json.dumps(
                {"template": template, "messages": messages, "variables": variables}
            ).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"a conversation must be of JSON values: {error}") from error
        if self._pid != os.getpid():
            self._forget()
        with self._lock:
            answer = self._answer(request)
        kind, content = answer[:1], answer[1:].decode(errors="surrogatepass")
        if kind == REFUSED:
            raise RequestError(f"the model's chat template refuses the messages: {content}")
        if kind == FAILED:
            raise RequestError(f"the model's chat template fails at the messages: {content}")
        return content

    def close(self) -> None:
        """End the process. The next conversation would start another."""
        if self._pid == os.getpid():
            with self._lock:
                self._end()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    def _answer(self, request: bytes) -> bytes:
        try:
            if self._worker is not None and (answer := self._worker.ask(request)) is not None:
                return answer
            self._end()  # it may have died before this conversation, which has another try
            self._worker = _Worker()
            if (answer := self._worker.ask(request)) is not None:
                return answer
            how = self._worker.end()
        except TimeoutError:
            self._end()
            raise RequestError(
                f"the model's chat template took more than {RENDER_SECONDS:g} s for the messages"
            ) from None
        except BaseException:  # what is asked and what is answered would no longer belong together
            self._end()
            raise
        self._worker = None
        raise RequestError(
            f"the model's chat template ended its process ({how}) at the messages; it may use "
            f"{MEMORY_BYTES >> 20} MiB"
        )

    def _end(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None


class _Worker:
    """One process. It ends with this object, with `end`, and with our process.

    Raises:
      NspjaxError: it cannot be started.
    """

    def __init__(self) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            try:
                process = subprocess.Popen(
                    # -P: a file beside which we run must not pass for a module
                    [sys.executable, "-P", "-Wignore", "-m", "nspjax.generate.text.chat_worker",
                     str(os.getpid())],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is ours to hear
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )  # fmt: skip
            except OSError as error:
                self._connection.close()
                raise _not_started(str(error)) from error
        self.end = weakref.finalize(self, _end, process, self._connection, os.getpid())
        """Ends the process, and says how it had ended."""
        self._connection.settimeout(_START_SECONDS)
        try:
            ready = receive(self._connection, _MOST_ANSWER_BYTES)
        except (OSError, BaseException):
            self.end()
            raise
        if ready != READY:
            raise _not_started(f"it ended with {self.end()}")
        self._connection.settimeout(RENDER_SECONDS)

    def ask(self, request: bytes) -> bytes | None:
        """The answer; None: the process has died.

        Raises:
          TimeoutError: it took longer than RENDER_SECONDS.
        """
        try:
            send(self._connection, request)
            return receive(self._connection, _MOST_ANSWER_BYTES)
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


def _not_started(why: str) -> NspjaxError:
    return NspjaxError(f"the process that renders chat templates cannot be started: {why}")
