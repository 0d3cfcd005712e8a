"""The input file as a whole: checked before any work, then read line by line."""

import json
import os
from pathlib import Path

import pytest

from nspjax.errors import BatchFileError
from nspjax.generate.batch.input import scan_input


def line(custom_id: str, **body: object) -> str:
    return json.dumps(
        {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}
    )


def refused(path: Path) -> str:
    with pytest.raises(BatchFileError) as error:
        scan_input(str(path))
    return str(error.value)


def test_blank_lines_crlf_and_a_bom_are_let_pass(tmp_path: Path):
    path = tmp_path / "in.jsonl"
    text = f"\ufeff{line('a', prompt='é')}\r\n\r\n  \n{line('b', prompt='y')}"
    path.write_bytes(text.encode())
    batch = scan_input(str(path))
    assert [(entry.custom_id, entry.number) for entry in batch.by_id.values()] == [
        ("a", 1),
        ("b", 4),
    ]
    assert [found.body["prompt"] for found in batch.read(batch.by_id.values())] == ["é", "y"]


def test_a_duplicate_custom_id_names_both_lines(tmp_path: Path):
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join([line("a"), "", line("b"), line("a")]))
    assert 'line 4: the custom_id "a" is that of line 1 too' in refused(path)


def test_bad_lines_are_named_five_at_a_time(tmp_path: Path):
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join([line("a"), *["{"] * 7, line("b")]))
    message = refused(path)
    assert [f"line {n}:" in message for n in range(1, 10)] == [False, *[True] * 5, *[False] * 3]
    assert "and 2 more lines" in message


def test_an_empty_file(tmp_path: Path):
    path = tmp_path / "in.jsonl"
    path.write_text("\n \r\n")
    assert "holds no request" in refused(path)


def test_a_missing_file_a_directory_and_a_pipe(tmp_path: Path):
    assert "No such file" in refused(tmp_path / "none")
    assert "must be an ordinary file" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "must be an ordinary file" in refused(tmp_path / "pipe")


def test_a_change_after_the_check_is_noticed(tmp_path: Path):
    path = tmp_path / "in.jsonl"
    path.write_text(f"{line('a', prompt='x')}\n{line('b', prompt='x')}\n")
    batch = scan_input(str(path))
    path.write_text(f"{line('a', prompt='x')}\n{line('b', prompt='y')}\n")
    with pytest.raises(BatchFileError, match="changed while the job ran: line 2"):
        list(batch.read(batch.by_id.values()))
