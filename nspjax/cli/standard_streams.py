"""Standard streams that a command was started without."""

from __future__ import annotations

import os
import sys


def open_missing_streams() -> None:
    """Let each of stdin, stdout and stderr that is closed be /dev/null.

    The next file that is opened, a store or an output, would have its number otherwise, and get
    whatever a library writes to that stream.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")
