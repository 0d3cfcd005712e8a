"""Results as a table: the columns are the fields of a result line, the body is JSON."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import orjson

from nspjax.errors import BatchFileError
from nspjax.generate.batch.parquet_requests import is_table, pyarrow

_ROWS = 1024
"""Of a row group."""


def write(file: BinaryIO, lines: Iterable[bytes]) -> None:
    """Write result lines as the rows of a table, in their order."""
    arrow, parquet = pyarrow()
    schema, rows = _schema(arrow), map(_row, lines)
    with parquet.ParquetWriter(file, schema, compression="zstd") as table:
        while group := list(itertools.islice(rows, _ROWS)):
            table.write_table(arrow.Table.from_pylist(group, schema))


def read(file: BinaryIO, path: str) -> Iterator[bytes]:
    """The lines that `write` was given.

    Raises:
      BatchFileError: it is another file.
    """
    arrow, parquet = pyarrow()
    try:
        if not is_table(file):
            raise arrow.ArrowInvalid("it is no Parquet file")
        table = parquet.ParquetFile(file)
        if table.schema_arrow != _schema(arrow):
            raise arrow.ArrowInvalid(f"its columns are {', '.join(table.schema_arrow.names)}")
        for batch in table.iter_batches(_ROWS):
            yield from map(_line, batch.to_pylist())
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise BatchFileError(f"the output {path} is no table of results: {error}") from error


def _schema(arrow: Any) -> Any:
    response = [
        ("status_code", arrow.int64()),
        ("request_id", arrow.string()),
        ("body", arrow.string()),
    ]
    error = [("code", arrow.string()), ("message", arrow.string())]
    columns = {
        "id": arrow.string(),
        "custom_id": arrow.string(),
        "response": arrow.struct(response),
        "error": arrow.struct(error),
    }
    return arrow.schema(columns)


def _row(line: bytes) -> dict[str, Any]:
    result = orjson.loads(line)
    response = result["response"]
    return result | {"response": response | {"body": orjson.dumps(response["body"]).decode()}}


def _line(row: dict[str, Any]) -> bytes:
    response = row["response"]
    body = orjson.Fragment(response["body"])
    return orjson.dumps(
        row | {"response": response | {"body": body}}, option=orjson.OPT_APPEND_NEWLINE
    )
