"""A result of an earlier run, as it stands in an output."""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson


@dataclasses.dataclass(frozen=True)
class EarlierResult:
    """Line `number` of `output`."""

    output: str
    number: int
    result: dict[str, Any]

    @property
    def where(self) -> str:
        """For messages."""
        return f"line {self.number} of the output {self.output}"

    @property
    def custom_id(self) -> str:
        return self.result["custom_id"]


def result_in(raw: bytes) -> dict[str, Any] | None:
    """The result in a line, None where it is no whole result line."""
    if not raw.endswith(b"\n"):
        return None
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    whole = isinstance(value, dict) and isinstance(value.get("custom_id"), str)
    return value if whole and isinstance(value.get("response"), dict) else None
