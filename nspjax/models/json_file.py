"""JSON files that somebody else wrote: bounded, and every failure in our words."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any

from nspjax.errors import CheckpointError
from nspjax.models.model_file import check_text_size, opened


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxdict = self.maxlist = 8
        self.maxstring = self.maxother = 100


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      FileNotFoundError: there is no such file.
      CheckpointError: it is too large, malformed or no object, or gives one key two values.
    """
    with opened(path) as file:
        check_text_size(path, file.n_bytes)
        return parse_json(file.read(file.n_bytes), str(path))


def parse_json(data: bytes | bytearray, where: str) -> dict[str, Any]:
    """The JSON object in UTF-8 bytes. where: what messages call it.

    Raises:
      CheckpointError: malformed, no object, or a key with two different values.
    """
    try:
        value = json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where} is not valid JSON: it is not UTF-8: {error}") from error
    except RecursionError as error:
        raise CheckpointError(f"{where} is not valid JSON: it is nested too deeply") from error
    except ValueError as error:  # a JSONDecodeError, a number of thousands of digits, `_object`
        raise CheckpointError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} must hold a JSON object, got {type(value).__name__}")
    return value


def shown(value: object) -> str:
    """A value as messages show it: what is long or deep is cut."""
    return _Short().repr(value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        for key, each in pairs:
            if value[key] is not each and value[key] != each:
                raise ValueError(f"{shown(key)} is both {shown(each)} and {shown(value[key])}")
    return value
