"""The output file: its lock, its whole lines, and what a resume finds in it."""

import errno
import json
import os
import socket
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nspjax.errors import BatchFileError, NotFiniteError, RequestError, StorageIOError
from nspjax.generate.batch.fields import FieldError
from nspjax.generate.batch.fingerprint import Fingerprint
from nspjax.generate.batch.finished import finished_ids
from nspjax.generate.batch.input import BatchInput, InputEntry
from nspjax.generate.batch.input_file import InputFile
from nspjax.generate.batch.lines import parse_line
from nspjax.generate.batch.output import open_output
from nspjax.generate.batch.results import error_line
from nspjax.generate.batch.work import AskedAnswers

ASKED = AskedAnswers(1, None)
MADE_WITH = Fingerprint({"nspjax": "1", "dtype": "bfloat16", "seed": "0"})


def request(custom_id: str, prompt: str = "x"):
    value = {"custom_id": custom_id, "method": "POST", "url": "/u", "body": {"prompt": prompt}}
    return parse_line(json.dumps(value).encode())


def batch_of(*custom_ids: str) -> BatchInput:
    lines = map(request, custom_ids)
    return BatchInput(
        InputFile("in.jsonl"),
        {
            n.custom_id: InputEntry(n.custom_id, i, 0, n.digest, ASKED)
            for i, n in enumerate(lines, 1)
        },
    )


def result(custom_id: str, prompt: str = "x") -> bytes:
    return error_line(request(custom_id, prompt), RequestError("no"))


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "out.jsonl")


def resumed(path: str, batch: BatchInput) -> list[str]:
    with closing(open_output(path, keep=True, replace=False)) as output:
        return list(finished_ids(output.earlier(), batch, "m", MADE_WITH))


def resume_refused(path: str, batch: BatchInput) -> str:
    before = Path(path).read_bytes()
    with pytest.raises(BatchFileError) as error:
        resumed(path, batch)
    assert Path(path).read_bytes() == before
    return str(error.value)


def test_content_is_kept_unless_asked(path: str):
    Path(path).write_bytes(b"x\n")
    with pytest.raises(BatchFileError, match=r"exists: --resume .* --overwrite"):
        open_output(path, keep=False, replace=False)
    open_output(path, keep=False, replace=True).close()
    assert Path(path).read_bytes() == b"x\n"


def test_an_empty_file_is_a_fresh_one(path: str):
    Path(path).touch()
    open_output(path, keep=False, replace=False).close()


def test_one_job_at_a_time(path: str):
    with (
        closing(open_output(path, keep=False, replace=False)),
        pytest.raises(BatchFileError, match="another job is writing"),
    ):
        open_output(path, keep=True, replace=False)
    open_output(path, keep=True, replace=False).close()


def test_paths_that_cannot_be_written(tmp_path: Path):
    for where, message in (
        (tmp_path / "none" / "out", f"there is no directory {tmp_path / 'none'}"),
        (tmp_path, "Is a directory"),
        (Path("/dev/null"), "must be an ordinary file"),
        (Path("/proc/out.jsonl"), "cannot write the output"),
    ):
        with pytest.raises(BatchFileError, match=message):
            open_output(str(where), keep=False, replace=False)


def test_a_failed_write_leaves_no_torn_line(path: str, monkeypatch: pytest.MonkeyPatch):
    write, budget = os.write, len(result("a")) + 10

    def nearly_full(fd: int, data: bytes) -> int:
        nonlocal budget
        if not budget:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(fd, data[:budget])
        budget -= written
        return written

    monkeypatch.setattr(os, "write", nearly_full)
    with closing(open_output(path, keep=False, replace=False)) as output:
        output.append(result("a"))
        with pytest.raises(BatchFileError, match="No space left on device"):
            output.append(result("b"))
    assert Path(path).read_bytes() == result("a")


@settings(deadline=None)
@given(data=st.data())
def test_a_torn_tail_is_cut_off(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    names = data.draw(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True))
    lines = [result(name) for name in names]
    whole = b"".join(lines)
    kept = data.draw(st.integers(0, len(whole)))
    garbage = data.draw(st.sampled_from([b"", b"\n", b"\0\0\0", b"\0\n"]))
    path = tmp_path_factory.mktemp("torn") / "out.jsonl"
    path.write_bytes(whole[:kept] + garbage)
    n_whole = sum(len(b"".join(lines[: i + 1])) <= kept for i in range(len(lines)))
    if garbage == b"\n" and whole[:kept] + garbage == b"".join(lines[: n_whole + 1]):
        n_whole += 1  # only the newline was missing
    assert resumed(str(path), batch_of(*names)) == names[:n_whole]
    assert path.read_bytes() == b"".join(lines[:n_whole])


@pytest.mark.parametrize(
    "text", [b"my notes", b"my notes\n", b'{"a": 1}\n', b'{"custom_id": "a"}\n', b"[]\n"]
)
def test_another_file_is_left_alone(path: str, text: bytes):
    Path(path).write_bytes(result("a") + text)
    assert "line 2 of the output" in resume_refused(path, batch_of("a"))


def test_a_torn_line_in_the_middle(path: str):
    Path(path).write_bytes(result("a")[:-9] + b"\n" + result("b"))
    assert "line 1 of the output" in resume_refused(path, batch_of("a", "b"))


def test_the_output_of_another_input(path: str):
    Path(path).write_bytes(result("a"))
    assert 'answers "a", which the input in.jsonl does not have' in resume_refused(
        path, batch_of("b")
    )


def test_a_request_that_changed_since(path: str):
    Path(path).write_bytes(result("a", prompt="before"))
    assert 'answers "a" as it was before: line 1 of in.jsonl' in resume_refused(path, batch_of("a"))


def test_an_answer_twice(path: str):
    Path(path).write_bytes(result("a") + result("b") + result("a"))
    assert "line 3 of the output" in (message := resume_refused(path, batch_of("a", "b")))
    assert 'answers "a", as line 1 did' in message


def test_the_answers_of_another_model(path: str):
    value = {"id": "x", "custom_id": "a", "response": {"body": {"model": "big"}}, "error": None}
    Path(path).write_text(json.dumps(value) + "\n")
    assert 'answered by "big", and this job\'s model is "m"' in resume_refused(path, batch_of("a"))


def test_lines_are_synced_now_and_then(path: str, monkeypatch: pytest.MonkeyPatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    monkeypatch.setattr("nspjax.generate.batch.result_file.SYNC_SECONDS", 0.0)
    with closing(open_output(path, keep=False, replace=False)) as output:
        output.append(result("a"))
        assert synced == [len(result("a"))]
    assert synced == [len(result("a"))] * 2


# ---- settings -----------------------------------------------------------------------------------


def answered(system_fingerprint: object) -> str:
    body = {"model": "m", "system_fingerprint": system_fingerprint}
    return json.dumps({"custom_id": "a", "response": {"body": body}, "error": None}) + "\n"


@pytest.mark.parametrize(
    ("before", "difference"),
    [
        ("nspjax=1 dtype=float16 seed=0", "dtype was float16 and is bfloat16"),
        ("nspjax=0.9 dtype=bfloat16 seed=7", "nspjax was 0.9 and is 1, seed was 7 and is 0"),
        ("nspjax=1 dtype=bfloat16", "seed was none and is 0"),
        ("nspjax=1 dtype=bfloat16 seed=0 kernel=avx2", "kernel was avx2 and is none"),
    ],
)
def test_answers_under_other_settings(path: str, before: str, difference: str):
    Path(path).write_text(answered(before))
    assert difference in resume_refused(path, batch_of("a"))


@pytest.mark.parametrize("before", [str(MADE_WITH), None, "fp_44709d6fcb", 3])
def test_answers_under_the_same_settings_or_none_of_ours(path: str, before: object):
    Path(path).write_text(answered(before))
    assert resumed(path, batch_of("a")) == ["a"]


# ---- what others do to the file while a job runs ------------------------------------------------


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def move_its_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


@pytest.mark.parametrize("disturb", [remove, replace, move_its_folder])
@pytest.mark.parametrize("when", ["in the middle", "at the end"])
def test_a_file_that_is_gone_is_noticed_and_its_results_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disturb, when: str
):
    path = tmp_path / "folder" / "out.jsonl"
    path.parent.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    output = open_output(str(path), keep=False, replace=False)
    output.append(result("a"))
    disturb(path)
    if when == "in the middle":
        monkeypatch.setattr("nspjax.generate.batch.result_file.SYNC_SECONDS", 0.0)
        with pytest.raises(BatchFileError, match="removed or replaced while the job ran") as error:
            output.append(result("b"))
        output.close()  # says it once
    else:
        output.append(result("b"))
        with pytest.raises(BatchFileError, match="removed or replaced while the job ran") as error:
            output.close()
    assert output.disturbed
    copy = str(error.value).partition(" are in ")[2].partition(": give it")[0]
    assert Path(copy).read_bytes() == result("a") + result("b")
    with closing(open_output(copy, keep=True, replace=False)) as kept:
        assert list(finished_ids(kept.earlier(), batch_of("a", "b"), "m", MADE_WITH)) == ["a", "b"]


def test_a_file_that_was_cut_is_not_written_on(path: str):
    with closing(open_output(path, keep=False, replace=False)) as output:
        output.append(result("a"))
        output.append(result("b"))
        os.truncate(path, len(result("a")) + 5)
        with pytest.raises(BatchFileError, match=r"was cut from \d+ to \d+ bytes"):
            output.append(result("c"))
    assert resumed(path, batch_of("a", "b", "c")) == ["a"]


def test_a_file_that_somebody_else_writes(path: str):
    output = open_output(path, keep=False, replace=False)
    output.append(result("a"))
    with open(path, "ab") as file:
        file.write(b"mine\n")
    with pytest.raises(BatchFileError, match="has 5 bytes that somebody else appended") as error:
        output.close()
    assert f"cut it to {len(result('a'))} bytes" in str(error.value)


@pytest.mark.parametrize("resumes", [False, True])
@pytest.mark.parametrize(
    "text", [b"X", b"\0" * 50, b"\n", b'{"custom_id": "b"}\n'], ids=["bit", "zeros", "end", "line"]
)
def test_a_file_that_somebody_else_writes_over(path: str, resumes: bool, text: bytes):
    """Of the same size, under the same name: only what it holds tells."""
    batch = batch_of("a", "b", "c", "d")
    lines = [result(custom_id) for custom_id in "abcd"]
    output = open_output(path, keep=False, replace=False)
    for line in lines[:3]:
        output.append(line)
    if resumes:
        output.close()
        output = open_output(path, keep=True, replace=False)
        assert list(finished_ids(output.earlier(), batch, "m", MADE_WITH)) == ["a", "b", "c"]
    with open(path, "r+b") as file:
        file.seek(len(lines[0]) + 20)
        file.write(text)
    output.append(lines[3])
    with pytest.raises(BatchFileError, match="of its 4 lines, 1 are not what was written: 2"):
        output.close()
    assert output.disturbed
    left = Path(path).read_bytes()
    whole = left[: len(lines[0])] + left[len(lines[0]) + len(lines[1]) :]
    assert whole == lines[0] + lines[2] + lines[3]
    Path(path).write_bytes(whole)
    assert resumed(path, batch) == ["a", "c", "d"]


def test_content_that_is_not_thrown_away_yet_is_not_looked_at(path: str):
    """An --overwrite that ends before it begins leaves what there is, and says nothing of it."""
    Path(path).write_bytes(b"other things\n")
    with closing(open_output(path, keep=False, replace=True)):
        Path(path).write_bytes(b"otherwise...\n")
    assert Path(path).read_bytes() == b"otherwise...\n"


def test_a_file_that_was_moved_back_in_time_is_the_same(path: str):
    with closing(open_output(path, keep=False, replace=False)) as output:
        os.rename(path, path + ".moved")
        os.symlink(path + ".moved", path)
        output.append(result("a"))
    assert resumed(path, batch_of("a")) == ["a"]


@pytest.mark.parametrize("kind", ["fifo", "socket", "link to a fifo", "link to a device"])
def test_what_is_no_ordinary_file_is_not_even_opened(path: str, kind: str):
    if "fifo" in kind:
        os.mkfifo(target := path + ".fifo")
    else:
        target = "/dev/null"
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path)
    elif kind == "fifo":
        path = target
    else:
        os.symlink(target, path)
    with pytest.raises(BatchFileError, match="must be an ordinary file"):
        open_output(path, keep=True, replace=True)


# ---- messages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RequestError, StorageIOError, NotFiniteError])
def test_a_message_of_any_error_is_cut_to_a_sane_length(kind: type):
    stops = [f"stop {i}" for i in range(100_000)]
    line = error_line(request("a"), kind(f"the begin {stops!r} the end"))
    assert len(line) < 3000
    value = json.loads(line)
    for message in (value["error"]["message"], value["response"]["body"]["error"]["message"]):
        assert message.startswith("the begin ['stop 0', ")
        assert message.endswith("'stop 99999'] the end")
        assert "characters) …" in message


def test_a_field_s_name_is_cut_too_and_no_message_fails_to_be_written():
    line = error_line(request("a"), FieldError("half \ud800", param="x" * 10**6))
    assert len(line) < 3000
    assert json.loads(line)["error"]["message"] == "half \\ud800"
