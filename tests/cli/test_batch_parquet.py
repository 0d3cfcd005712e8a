"""Requests from a Parquet table, and results into one."""

import datetime
import json
from pathlib import Path

import pytest
from jobs import request_line
from stub_engine import StubEngine

from nspjax.errors import BatchFileError, StorageIOError
from nspjax.generate.batch.input import scan_input
from nspjax.generate.batch.job import BatchJob, BatchProgress

pa = pytest.importorskip("pyarrow", reason="an extra: pip install 'nspjax[parquet]'")
pq = pytest.importorskip("pyarrow.parquet")

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello é"}]


def written(path: Path, columns: dict) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def read(path: Path) -> list[dict]:
    batch = scan_input(str(path))
    return [
        {"custom_id": each.custom_id, "url": each.url, **(each.body or {"problem": each.problem})}
        for each in batch.read(batch.by_id.values())
    ]


def refused(path: Path) -> str:
    with pytest.raises(BatchFileError) as error:
        scan_input(str(path))
    return str(error.value)


# ---- requests -----------------------------------------------------------------------------------


def test_bodies_as_structs(tmp_path: Path):
    """A null is a field that another row has."""
    bodies = [{"prompt": "x", "seed": 1}, {"messages": HELLO, "logit_bias": None}]
    path = written(tmp_path / "in.parquet", {"custom_id": ["a", "b"], "body": bodies})
    assert read(path) == [
        {"custom_id": "a", "url": COMPLETIONS, "prompt": "x", "seed": 1},
        {"custom_id": "b", "url": CHAT, "messages": HELLO},
    ]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_bodies_as_text(tmp_path: Path, kind: object):
    bodies = [{"prompt": ["x", "é"]}, {"messages": HELLO}, {"prompt": "y"}]
    columns = {
        "custom_id": ["a", "b", "c"],
        "method": ["POST", None, "POST"],
        "url": [None, None, "/v1/other"],
        "body": pa.array([json.dumps(body, ensure_ascii=False, indent=1) for body in bodies], kind),
        "remark": ["not", "a", "field"],
    }
    assert read(written(tmp_path / "in.parquet", columns)) == [
        {"custom_id": "a", "url": COMPLETIONS, "prompt": ["x", "é"]},
        {"custom_id": "b", "url": CHAT, "messages": HELLO},
        {"custom_id": "c", "url": "/v1/other", "prompt": "y"},
    ]


def test_flat_columns(tmp_path: Path):
    columns = {
        "custom_id": pa.array(["a", "b", "c", "d"]).dictionary_encode(),
        "prompt": [None, None, "x", "y"],
        "messages": [HELLO, [{"role": "user", "content": "2"}], None, None],
        "temperature": [0.5, 1.0, None, 0.0],
        "max_tokens": pa.array([4, None, 5, 6], pa.float64()),  # as pandas has integers with gaps
        "stop": [["\n"], None, None, []],
    }
    found = read(written(tmp_path / "in.parquet", columns))
    assert type(found[0]["max_tokens"]) is int
    assert found == [
        {
            "custom_id": "a",
            "url": CHAT,
            "messages": HELLO,
            "temperature": 0.5,
            "max_tokens": 4,
            "stop": ["\n"],
        },
        {
            "custom_id": "b",
            "url": CHAT,
            "messages": [{"role": "user", "content": "2"}],
            "temperature": 1,
        },
        {"custom_id": "c", "url": COMPLETIONS, "prompt": "x", "max_tokens": 5},
        {
            "custom_id": "d",
            "url": COMPLETIONS,
            "prompt": "y",
            "temperature": 0,
            "max_tokens": 6,
            "stop": [],
        },
    ]


def test_messages_as_text_and_maps(tmp_path: Path):
    bias = pa.array([[("1", 2.0)]], pa.map_(pa.string(), pa.float64()))
    columns = {"custom_id": ["a"], "messages": [json.dumps(HELLO)], "logit_bias": bias}
    (found,) = read(written(tmp_path / "in.parquet", columns))
    assert found["messages"] == HELLO
    assert found["logit_bias"] == {"1": 2.0}


def test_a_row_is_what_a_line_is(tmp_path: Path):
    """So that one file can be resumed with the other."""
    (tmp_path / "in.jsonl").write_text(request_line("a", prompt="x", max_tokens=4))
    columns = {"custom_id": ["a"], "prompt": ["x"], "max_tokens": [4]}
    table = scan_input(str(written(tmp_path / "in.parquet", columns)))
    assert table.by_id["a"].digest == scan_input(str(tmp_path / "in.jsonl")).by_id["a"].digest


def test_many_row_groups(tmp_path: Path):
    ids = [str(i) for i in range(500)]
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"custom_id": ids, "prompt": ids}), path, row_group_size=90)
    batch = scan_input(str(path))
    later = [batch.by_id[custom_id] for custom_id in ids[77:450:3]]
    assert [each.body["prompt"] for each in batch.read(later)] == ids[77:450:3]
    assert list(scan_input(str(path), limit=91).by_id) == ids[:91]


def test_rows_fail_one_by_one(tmp_path: Path):
    not_utf8 = pa.Array.from_buffers(
        pa.string(), 3, pa.array([b"x", b"\xff", b"y"], pa.binary()).buffers()
    )
    columns = {
        "custom_id": ["nan", "byte", "good"],
        "prompt": not_utf8,
        "temperature": [float("nan"), 1.0, 1.0],
    }
    path = written(tmp_path / "in.parquet", columns)
    nan, byte, good = read(path)
    assert "NaN is not a JSON value" in nan["problem"]
    assert "Invalid UTF8" in byte["problem"]
    assert good["prompt"] == "y"
    texts = ['{"prompt": NaN}', '{"prompt": "\\ud800"}', '{"prompt": 1, "prompt": 2}']
    columns = {"custom_id": ["a", "b", "c"], "body": texts}
    problems = [row["problem"] for row in read(written(path, columns))]
    for problem, text in zip(problems, ("NaN", "half of a character", "twice"), strict=True):
        assert text in problem
    day = datetime.date(2026, 1, 1)
    (found,) = read(written(path, {"custom_id": ["a"], "prompt": ["x"], "date": [day]}))
    assert "date is not JSON serializable" in found["problem"]
    twice = pa.array([[("1", 2.0), ("1", 3.0)]], pa.map_(pa.string(), pa.float64()))
    (found,) = read(written(path, {"custom_id": ["a"], "prompt": ["x"], "logit_bias": twice}))
    assert "cannot be read" in found["problem"]


def test_tables_that_are_refused(tmp_path: Path):
    path = tmp_path / "in.parquet"
    assert "no column custom_id" in refused(written(path, {"id": ["a"], "prompt": ["x"]}))
    assert "row 2: the custom_id" in refused(
        written(path, {"custom_id": ["a", "a"], "prompt": ["x", "y"]})
    )
    assert '"custom_id" must be a string' in refused(
        written(path, {"custom_id": [1], "prompt": ["x"]})
    )
    assert 'no "body"' in refused(
        written(path, {"custom_id": ["a"], "body": pa.array([None], pa.string())})
    )
    assert "row 1: not JSON" in refused(written(path, {"custom_id": ["a"], "body": ["{"]}))
    path.write_bytes(path.read_bytes()[:-20])
    assert "Parquet file cannot be read" in refused(path)


# ---- results ------------------------------------------------------------------------------------

REQUESTS = [request_line(str(i), prompt="x" * (i % 7 + 1), max_tokens=9) for i in range(12)] + [
    request_line("bad", prompt="x", no_such_field=1)
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(REQUESTS))
    return path


def run(source: Path, output: Path, engine: StubEngine | None = None, **how) -> BatchProgress:
    with BatchJob(str(source), str(output), model="stub", **how) as job:
        return job.run(engine or StubEngine())


def rows(path: Path) -> dict[str, dict]:
    """What another program reads: custom_id -> result, without the time."""
    found = {row["custom_id"]: row for row in pq.read_table(path).to_pylist()}
    for row in found.values():
        row["response"]["body"] = json.loads(row["response"]["body"])
        row["response"]["body"].pop("created", None)
    return found


def lines(path: Path) -> dict[str, dict]:
    found = {value["custom_id"]: value for value in map(json.loads, path.read_text().splitlines())}
    for value in found.values():
        value["response"]["body"].pop("created", None)
    return found


def test_the_table_has_what_the_lines_have(source: Path):
    plain, table = source.with_name("out.jsonl"), source.with_name("out.parquet")
    run(source, plain)
    assert run(source, table) == BatchProgress(13, answered=12, refused=1, before=0)
    assert rows(table) == lines(plain)
    assert pq.read_schema(table) == pa.schema(
        {
            "id": pa.string(),
            "custom_id": pa.string(),
            "response": pa.struct(
                {"status_code": pa.int64(), "request_id": pa.string(), "body": pa.string()}
            ),
            "error": pa.struct({"code": pa.string(), "message": pa.string()}),
        }
    )


def test_a_table_after_a_stop_and_with_more_requests(source: Path):
    plain, table = source.with_name("out.jsonl"), source.with_name("out.parquet")
    run(source, plain)
    run(source, table, limit=4)
    with pytest.raises(StorageIOError):
        run(source, table, StubEngine(fail_after=3, failure=StorageIOError("EIO")), resume=True)
    assert len(rows(table)) == 4
    assert run(source, table, resume=True).before == 7
    assert rows(table) == lines(plain)
    partial = source.with_name("out.parquet.partial.jsonl")
    assert not partial.exists()
    with BatchJob(str(source), str(table), model="stub", resume=True) as job:
        assert job.progress().finished == 13
    assert rows(table) == lines(plain)


def test_another_table_is_left_alone(source: Path):
    table = written(source.with_name("out.parquet"), {"custom_id": ["a"]})
    before = table.read_bytes()
    for content in (before, before[:-9], b"my notes\n"):
        table.write_bytes(content)
        with pytest.raises(BatchFileError, match="is no table of results"):
            run(source, table, resume=True)
        assert table.read_bytes() == content
