"""What a process within limits is made of: `run` in its `__main__`."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

READY = b"R"
"""The process's first message."""

_PR_SET_PDEATHSIG = 1


def run(answer: Callable[[bytes], bytes], *, memory_bytes: int) -> None:
    """Answer what is asked until the other side closes.

    memory_bytes: what the process may use from now on; import what takes memory before.
    """
    _end_with_parent(int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = socket.socket(fileno=0)
    _limit_memory(memory_bytes)
    send(connection, READY)
    while (asked := receive(connection)) is not None:
        send(connection, answer(asked))


def memory_left_bytes() -> float:
    """How much more the process may use."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    return math.inf if most == resource.RLIM_INFINITY else most - _used_bytes()


def send(to: socket.socket, content: bytes) -> None:
    """One message."""
    to.sendall(len(content).to_bytes(8, "little") + content)


def receive(connection: socket.socket, most_bytes: int | None = None) -> bytes | None:
    """The next message; None: the other side has closed, or sends more than `most_bytes`."""
    head = _exactly(connection, 8)
    if head is None:
        return None
    n_bytes = int.from_bytes(head, "little")
    if most_bytes is not None and n_bytes > most_bytes:
        return None
    return _exactly(connection, n_bytes)


def _exactly(connection: socket.socket, n_bytes: int) -> bytes | None:
    content = bytearray(n_bytes)
    view = memoryview(content)
    while view:
        n_new = connection.recv_into(view)
        if n_new == 0:
            return None
        view = view[n_new:]
    return bytes(content)


def _limit_memory(more_bytes: int) -> None:
    most = _used_bytes() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _used_bytes() -> int:
    """Of address space, which is what is limited."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _end_with_parent(parent_pid: int) -> None:
    """However the parent ends: one that was killed closes the socket, but code that never ends
    does not see that."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit()
