"""llguidance, imported when the first answer needs it; its errors, as one request's."""

from __future__ import annotations

from typing import Any

from nspjax.errors import RequestError
from nspjax.generate.text.library_errors import MOST_SHOWN
from nspjax.message_text import shortened

MISSING = "structured output needs the package llguidance: pip install 'nspjax[structured]'"


class GrammarError(RequestError):
    """A schema, regular expression or grammar that no answer can be held to."""


def llguidance() -> Any:
    """The package.

    Raises:
      RequestError: it is not installed.
    """
    try:
        import llguidance
    except ImportError:
        raise RequestError(MISSING) from None
    return llguidance


def refused(what: str, message: str) -> GrammarError:
    """The error with what llguidance said of it, without the state that it prints after that."""
    said = message.split("\n<")[0].strip()
    return GrammarError(f"{what}: {shortened(said, MOST_SHOWN)}")
