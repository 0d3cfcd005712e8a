"""How a command ends."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """The exit codes of every command; `128 + n` after signal n, as shells have it."""

    DONE = 0
    """all was done"""
    FAILED = 1
    """work began and could not be ended; what was finished is kept"""
    REFUSED = 2
    """bad usage or bad input: nothing was begun"""
    SOME_REQUESTS_REFUSED = 3
    """the job ended, some of its results are error lines"""
    INTERRUPTED = 130
    """stopped by SIGINT"""
    TERMINATED = 143
    """stopped by SIGTERM"""
