"""Requests in a Parquet file: a row is a line of JSON.

Columns are the fields of a line: custom_id, method ("POST" if there is none), url (by the body,
if there is none), and body, a struct or JSON as text. Where there is no column `body`, all other
columns are its fields: prompt or messages, max_tokens and so on. A null is a field left out.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from nspjax.errors import BatchFileError
from nspjax.generate.batch.lines import BatchLine, unreadable_line

_MAGIC = b"PAR1"
_ROWS = 64
"""That are read at a time: contexts are long."""
_OF_A_LINE = ("custom_id", "method", "url")
_COMPLETIONS, _CHAT = "/v1/completions", "/v1/chat/completions"
_MOST_WHOLE = 2**53
"""Up to here a float has every integer."""
_NEVER_TEXT = {
    "chat_template_kwargs",
    "documents",
    "logit_bias",
    "messages",
    "response_format",
    "tools",
}
"""Fields of a body whose column may hold JSON as text, since text would be wrong there."""


def is_table(file: BinaryIO) -> bool:
    """Whether a file, at its begin, is a Parquet file."""
    begin = file.read(len(_MAGIC))
    file.seek(0)
    return begin == _MAGIC


def lines(file: BinaryIO) -> Iterator[tuple[int, bytes | BatchLine]]:
    """(number of the row, from 1; its line).

    Raises:
      BatchFileError: pyarrow is not installed, the file is damaged, or it has no custom_ids.
    """
    arrow, parquet = pyarrow()
    number = 0
    try:
        table = parquet.ParquetFile(file)
        _check_columns(table.schema_arrow.names)
        for batch in table.iter_batches(_ROWS):
            for row in _rows(batch):
                number += 1
                yield number, _line(row) if isinstance(row, dict) else row
    except arrow.ArrowException as error:
        raise BatchFileError(f"the Parquet file cannot be read: {error}") from error


def pyarrow() -> tuple[Any, Any]:
    """pyarrow and its module for Parquet.

    Raises:
      BatchFileError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BatchFileError(
            "pyarrow is not installed, which Parquet files need: pip install 'nspjax[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet


def _check_columns(names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise BatchFileError(f"two columns have one name: {', '.join(names)}")
    if "custom_id" not in names:
        raise BatchFileError(
            f"there is no column custom_id, which tells each request from all others, among "
            f"{', '.join(names)}"
        )


def _rows(batch: Any) -> Iterator[dict[str, Any] | BatchLine]:
    """The rows; of one that has no Python value, or text that is not UTF-8, the line that says
    so."""
    try:
        batch.validate(full=True)
        rows = batch.to_pylist(maps_as_pydicts="strict")
    except (KeyError, OverflowError, ValueError) as error:  # Arrow's own are ValueErrors
        if batch.num_rows > 1:
            for index in range(batch.num_rows):
                yield from _rows(batch.slice(index, 1))
            return
        ids = batch.column("custom_id")
        ids.validate(full=True)
        yield unreadable_line(str(ids[0].as_py()), f"cannot be read: {error}")
    else:
        yield from rows


def _line(row: dict[str, Any]) -> bytes | BatchLine:
    """The line, which `lines.parse_line` then judges."""
    given = {name: row[name] for name in _OF_A_LINE if row.get(name) is not None}
    if "body" in row:
        body = _as_it_stands(row["body"])
    else:
        body = {name: _flat(name, value) for name, value in row.items() if name not in _OF_A_LINE}
    try:
        text = _json(body)
    except TypeError as error:
        return unreadable_line(str(row["custom_id"]), f"no JSON value: {error}")
    fields = {"method": "POST", "url": _CHAT if _is_chat(body) else _COMPLETIONS} | given
    members = [f"{json.dumps(name)}: {_json(value)}" for name, value in fields.items()]
    if body is not None:
        members.append(f'"body": {text}')
    return f"{{{', '.join(members)}}}".encode(errors="surrogateescape")


def _is_chat(body: Any) -> bool:
    if isinstance(body, _JSONText):
        with contextlib.suppress(ValueError, RecursionError):
            body = json.loads(body)
    return isinstance(body, Mapping) and body.get("messages") is not None


def _as_it_stands(body: Any) -> Any:
    if isinstance(body, bytes):
        body = body.decode(errors="surrogateescape")  # which `lines.parse_line` finds
    return _JSONText(body) if isinstance(body, str) else body


def _flat(name: str, value: Any) -> Any:
    """A column's value as a body has it. Whole numbers of a column that has nulls are floats
    where pandas wrote it."""
    if isinstance(value, str) and name in _NEVER_TEXT:
        return _JSONText(value)
    if isinstance(value, float) and abs(value) <= _MOST_WHOLE and value.is_integer():
        return int(value)
    return value


class _JSONText(str):
    """JSON as it stands."""


def _json(value: Any) -> str:
    """JSON of a value of a table. Its nulls are fields that other rows have.

    Raises:
      TypeError: JSON has no such values.
    """
    if isinstance(value, _JSONText):
        return value
    if isinstance(value, Mapping):
        members = ((name, each) for name, each in value.items() if each is not None)
        return "{" + ", ".join(f"{json.dumps(str(n))}: {_json(each)}" for n, each in members) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
