"""Files that a command is told to write."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from nspjax.errors import InvalidArgumentError


def check_output(option: str, path: str | None, *, other_than: Sequence[str] = ()) -> None:
    """Refuse a path that cannot be written, or that is one of the command's other files.

    Raises:
      InvalidArgumentError: so it is.
    """
    if path is None:
        return
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
    if not stat.S_ISREG(mode) or not os.path.isdir(folder):
        what = f"has no directory {folder}"
        if not stat.S_ISREG(mode):
            what = "is a directory" if stat.S_ISDIR(mode) else "is no ordinary file"
        raise InvalidArgumentError(f"{option} {path} {what}: give a file to write")
    if os.path.realpath(path) in map(os.path.realpath, other_than):
        raise InvalidArgumentError(f"{option} {path} is the input or the output")
