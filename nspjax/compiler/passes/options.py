"""What passes take as options: their names, and the range of whole numbers."""

from __future__ import annotations

from typing import Any

from nspjax.errors import PipelineError

MOST = 2**31 - 1
"""What rows, tokens and layers are counted in: int32."""


def option_name(field: str) -> str:
    """A field of a pass, as a pipeline string has it."""
    return field.replace("_", "-")


def check_whole(step: Any, field: str, least: int, most: int = MOST) -> None:
    """Refuse a pass whose option is no whole number from `least` to `most`.

    Raises:
      PipelineError: says what it is.
    """
    value = getattr(step, field)
    if type(value) is not int or not least <= value <= most:
        raise PipelineError(
            f"{step.name}: {option_name(field)} must be a whole number from {least} to "
            f"{most}, got {value!r}"
        )
