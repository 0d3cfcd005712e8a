"""Files that a command is told to write."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from nspjax.errors import InvalidArgumentError


def check_output(
    option: str, path: str | None, *, other_than: Sequence[str] = (), ordinary: bool = False
) -> None:
    """Refuse a path that cannot be written, or that is one of the command's other files.

    ordinary: refuse FIFOs and devices too: one that is opened at the end of a job may hang it.

    Raises:
      InvalidArgumentError: it is such a path.
    """
    if path is None:
        return
    if not path:
        raise InvalidArgumentError(f"{option} is empty: give a file to write")
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InvalidArgumentError(f"{option} {path} cannot be written: {why}") from error
    folder = os.path.dirname(path) or "."
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidArgumentError(f"{option} {path} cannot be written: {reason}") from error
    what = None
    if stat.S_ISDIR(mode):
        what = "is a directory"
    elif ordinary and not stat.S_ISREG(mode):
        what = "is no ordinary file"
    elif not os.path.isdir(folder):
        what = f"has no directory {folder}"
    elif not os.access(path if os.path.lexists(path) else folder, os.W_OK, effective_ids=True):
        what = "cannot be written by this user"
    if what is not None:
        raise InvalidArgumentError(f"{option} {path} {what}: give a file to write")
    if os.path.realpath(path) in map(os.path.realpath, other_than):
        raise InvalidArgumentError(f"{option} {path} is the input or the output")
