"""What other people's code raises, tokenizers and templates: anything, of any length."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from nspjax.errors import RequestError
from nspjax.message_text import shortened

MOST_SHOWN = 300
"""Characters of a library's error that a message repeats, about."""


@contextlib.contextmanager
def failures_are_the_requests(what: str) -> Iterator[None]:
    """Whatever is raised inside concerns one request only: a `RequestError` that begins with
    `what`."""
    try:
        yield
    except BaseException as error:
        if not is_failure(error):
            raise
        raise RequestError(f"{what}: {told(error)}") from error


def is_failure(error: BaseException) -> bool:
    """Whether the code that ran failed; else somebody asked it to stop. A panic in Rust is not an
    `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def told(error: BaseException) -> str:
    """The error's class and text, about `MOST_SHOWN` characters of it."""
    try:
        text = str(error)
    except Exception:
        text = ""
    name = type(error).__name__
    return shortened(f"{name}: {text}" if text else name, MOST_SHOWN)
