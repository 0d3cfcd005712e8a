"""Files that a command is told to write."""

from __future__ import annotations

import os
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
    if os.path.isdir(path) or not os.path.isdir(folder):
        what = "is a directory" if os.path.isdir(path) else f"has no directory {folder}"
        raise InvalidArgumentError(f"{option} {path} {what}: give a file to write")
    if os.path.realpath(path) in map(os.path.realpath, other_than):
        raise InvalidArgumentError(f"{option} {path} is the input or the output")
