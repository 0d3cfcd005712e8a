"""Files of a job that are not plain lines: compressed ones, standard streams, errors apart."""

import gzip
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jobs import HERE, request_line, results_in
from stub_engine import StubEngine

from nspjax.errors import BatchFileError, StorageIOError
from nspjax.generate.batch.job import BatchJob, BatchProgress

REQUESTS = [request_line(str(i), prompt="x" * (i % 7 + 1), max_tokens=9) for i in range(12)]
NO_FIELD = request_line("bad", prompt="x", no_such_field=3)


def zstd_module():
    return pytest.importorskip(
        "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd",
        reason="zstd is an extra: pip install 'nspjax[zstd]'",
    )


def compressed(how: str, data: bytes) -> bytes:
    if how == "gz":
        return gzip.compress(data)
    zstd = zstd_module()  # the command's default is a checksum
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


def decompressed(how: str, data: bytes) -> bytes:
    return gzip.decompress(data) if how == "gz" else zstd_module().decompress(data)


COMPRESSED = pytest.mark.parametrize("how", ["gz", "zst"])


def run(
    source: Path | str,
    output: Path | str,
    engine: StubEngine | None = None,
    errors: Path | None = None,
    limit: int | None = None,
    **how: bool,
) -> BatchProgress:
    errors_path = None if errors is None else str(errors)
    with BatchJob(
        str(source), str(output), errors_path=errors_path, limit=limit, model="stub", **how
    ) as job:
        progress = job.progress()
        return progress if progress.finished == progress.total else job.run(engine or StubEngine())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(REQUESTS))
    return path


@pytest.fixture
def expected(source: Path) -> dict[str, dict]:
    output = source.with_name("expected.jsonl")
    run(source, output)
    return results_in(output.read_bytes())


def failing(after: int) -> StubEngine:
    return StubEngine(fail_after=after, failure=StorageIOError("EIO"))


# ---- inputs -------------------------------------------------------------------------------------


@COMPRESSED
def test_a_compressed_input_in_several_parts(source: Path, expected: dict, how: str):
    parts = ["\ufeff" + "".join(REQUESTS[:5]), "", "".join(REQUESTS[5:])]
    packed = source.with_name("in.data")  # the content tells, not the name
    packed.write_bytes(b"".join(compressed(how, part.encode()) for part in parts))
    run(packed, source.with_name("out.jsonl"))
    assert results_in(source.with_name("out.jsonl").read_bytes()) == expected


def test_zstd_behind_a_skippable_frame(source: Path, expected: dict):
    frame = b"\x5a\x2a\x4d\x18\x03\0\0\0abc"
    source.write_bytes(frame + compressed("zst", source.read_bytes()))
    run(source, source.with_name("out.jsonl"))
    assert results_in(source.with_name("out.jsonl").read_bytes()) == expected


@COMPRESSED
@pytest.mark.parametrize("damage", ["cut", "flipped", "more"])
def test_a_damaged_compressed_input(source: Path, how: str, damage: str):
    whole = bytearray(compressed(how, source.read_bytes() * 1))
    if damage == "cut":
        del whole[-3:]
    elif damage == "flipped":
        whole[len(whole) // 2] ^= 0xFF
    else:
        whole += b"what is this?"
    source.write_bytes(whole)
    with pytest.raises(BatchFileError, match=rf"{source} is (cut|damaged)"):
        run(source, source.with_name("out.jsonl"))


@COMPRESSED
def test_lines_of_a_compressed_input_fail_one_by_one(source: Path, how: str):
    lines = [
        REQUESTS[0],
        '{"custom_id": "nan", "x": NaN}\n',
        '{"custom_id": "half", "x": "\\ud800"}',
    ]
    source.write_bytes(compressed(how, "".join(lines).encode()))
    output = source.with_name("out.jsonl")
    assert run(source, output) == BatchProgress(3, answered=1, refused=2, before=0)
    found = results_in(output.read_bytes())
    assert "NaN is not a JSON value" in found["nan"]["error"]["message"]
    assert "half of a character" in found["half"]["error"]["message"]


@pytest.mark.parametrize("how", ["plain", "gz"])
def test_standard_input(source: Path, expected: dict, how: str, monkeypatch: pytest.MonkeyPatch):
    content = source.read_bytes() if how == "plain" else gzip.compress(source.read_bytes())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    run("-", source.with_name("out.jsonl"))
    assert results_in(source.with_name("out.jsonl").read_bytes()) == expected


def test_standard_input_that_is_large_or_empty(source: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nspjax.generate.batch.input_file._IN_MEMORY_BYTES", 10)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(source.read_bytes())))
    assert run("-", source.with_name("out.jsonl")).answered == len(REQUESTS)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(BatchFileError, match="the input standard input holds no request"):
        run("-", source.with_name("out.jsonl"))


def test_a_limit(source: Path):
    output = source.with_name("out.jsonl")
    source.write_text("\n" + "".join(REQUESTS) + "no JSON\n")  # what is not asked for is not read
    assert run(source, output, limit=5) == BatchProgress(5, answered=5, refused=0, before=0)
    assert results_in(output.read_bytes()).keys() == set("01234")
    assert run(source, output, limit=9, resume=True).before == 5
    with pytest.raises(BatchFileError, match="does not have among its first 5 requests"):
        run(source, output, limit=5, resume=True)


# ---- outputs that are written at the end --------------------------------------------------------


@COMPRESSED
def test_a_compressed_output_after_a_stop(source: Path, expected: dict, how: str):
    output = source.with_name(f"out.jsonl.{how}")
    partial = Path(f"{output}.partial.jsonl")
    with pytest.raises(StorageIOError):
        run(source, output, failing(5))
    assert not output.exists()
    assert len(results_in(partial.read_bytes())) == 5
    with pytest.raises(BatchFileError, match=r"partial\.jsonl exists: --resume .* --overwrite"):
        run(source, output)
    assert run(source, output, resume=True).before == 5
    assert not partial.exists()
    assert results_in(decompressed(how, output.read_bytes())) == expected
    with pytest.raises(BatchFileError, match=rf"{output} exists"):
        run(source, output)


def test_a_packed_output_gets_the_results_of_a_longer_input(source: Path, expected: dict):
    output = source.with_name("out.jsonl.gz")
    run(source, output, limit=6)
    before = output.read_bytes()
    assert run(source, output, limit=6, resume=True).before == 6  # nothing to do
    assert output.read_bytes() == before
    with pytest.raises(StorageIOError):
        run(source, output, failing(2), resume=True)
    assert output.read_bytes() == before
    partial = Path(f"{output}.partial.jsonl")
    os.truncate(
        partial, len(gzip.decompress(before)) - 30
    )  # a copy that was cut short is made anew
    assert run(source, output, resume=True).before == 6
    assert results_in(gzip.decompress(output.read_bytes())) == expected


def test_a_kill_between_the_last_result_and_the_output(source: Path, expected: dict):
    output = source.with_name("out.jsonl.gz")
    plain = source.with_name("expected.jsonl")
    Path(f"{output}.partial.jsonl").write_bytes(plain.read_bytes())
    engine = StubEngine()
    assert run(source, output, engine, resume=True).before == len(REQUESTS)
    assert not engine.served
    assert results_in(gzip.decompress(output.read_bytes())) == expected


def test_a_kill_while_an_output_was_unpacked(source: Path, expected: dict):
    output = source.with_name("out.jsonl.gz")
    run(source, output)
    some = source.with_name("expected.jsonl").read_bytes().splitlines(keepends=True)[:3]
    Path(f"{output}.partial.jsonl").write_bytes(b"".join(some))
    assert run(source, output, resume=True).before == len(REQUESTS)
    assert results_in(gzip.decompress(output.read_bytes())) == expected


def test_overwriting_a_packed_output(source: Path, expected: dict):
    output = source.with_name("out.jsonl.gz")
    run(source, output, limit=3)
    with BatchJob(str(source), str(output), model="stub", overwrite=True):
        pass  # ends before it begins
    assert len(results_in(gzip.decompress(output.read_bytes()))) == 3
    with pytest.raises(StorageIOError):
        run(source, output, failing(1), overwrite=True)
    assert run(source, output, resume=True).before == 1  # not those that were thrown away
    assert results_in(gzip.decompress(output.read_bytes())) == expected


def test_a_packed_output_that_cannot_be_written(
    source: Path, expected: dict, monkeypatch: pytest.MonkeyPatch
):
    output = source.with_name("out.jsonl.gz")

    def full(old: str, new: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", full)
        with pytest.raises(BatchFileError, match=r"No space left .*partial\.jsonl, and --resume"):
            run(source, output)
    assert [path.name for path in source.parent.glob("out*")] == ["out.jsonl.gz.partial.jsonl"]
    run(source, output, resume=True)
    assert results_in(gzip.decompress(output.read_bytes())) == expected


@COMPRESSED
def test_a_flipped_bit_in_a_packed_output(source: Path, how: str):
    output = source.with_name(f"out.jsonl.{how}")
    run(source, output)
    whole = output.read_bytes()
    for at in range(len(whole) // 3, len(whole) - 8, 7):
        flipped = bytearray(whole)
        flipped[at] ^= 1
        output.write_bytes(flipped)
        with pytest.raises(BatchFileError):  # by what it holds, if not by its checksum
            run(source, output, resume=True)
        assert output.read_bytes() == flipped


def test_a_damaged_or_foreign_packed_output_is_left_alone(source: Path):
    output = source.with_name("out.jsonl.gz")
    for content, message in (
        (gzip.compress(b"x" * 100)[:-2], "is cut"),
        (gzip.compress(b"my notes\n"), "line 1 of the output .* is no result line"),
    ):
        output.write_bytes(content)
        with pytest.raises(BatchFileError, match=message):
            run(source, output, resume=True)
        assert output.read_bytes() == content
        assert not list(source.parent.glob("*partial*"))


def test_a_link_to_a_packed_output_stays_one(source: Path):
    (source.parent / "elsewhere").mkdir()
    target = source.parent / "elsewhere" / "data.gz"
    output = source.with_name("out.jsonl.gz")
    output.symlink_to(target)
    run(source, output)
    assert output.is_symlink()
    assert len(results_in(gzip.decompress(target.read_bytes()))) == len(REQUESTS)


def test_one_job_at_a_time_on_a_packed_output(source: Path):
    output = source.with_name("out.jsonl.gz")
    with (
        BatchJob(str(source), str(output), model="stub"),
        pytest.raises(BatchFileError, match="another job is writing"),
    ):
        run(source, output, resume=True)


def test_what_an_extra_is_needed_for(source: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("compression.zstd", "backports.zstd", "pyarrow"):
        monkeypatch.setitem(sys.modules, name, None)
    for suffix, command in (("zst", r"nspjax\[zstd\]"), ("parquet", r"nspjax\[parquet\]")):
        with pytest.raises(BatchFileError, match=f"pip install '{command}'"):
            run(source, source.with_name(f"out.{suffix}"))
    for content in (b"\x28\xb5\x2f\xfd...", b"PAR1..."):
        source.write_bytes(content)
        with pytest.raises(BatchFileError, match="pip install 'nspjax"):
            run(source, source.with_name("out.jsonl"))


# ---- errors apart -------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_errors_in_a_file_of_their_own(source: Path, expected: dict, suffix: str):
    source.write_text(
        "".join([*REQUESTS[:3], NO_FIELD, *REQUESTS[3:], NO_FIELD.replace("bad", "worse")])
    )
    output, errors = source.with_name("out.jsonl"), source.with_name(f"errors.jsonl{suffix}")
    with pytest.raises(StorageIOError):
        run(source, output, failing(4), errors=errors)
    end = run(source, output, errors=errors, resume=True)
    assert end == BatchProgress(14, answered=12, refused=2, before=5)
    assert results_in(output.read_bytes()) == expected
    content = errors.read_bytes()
    found = results_in(gzip.decompress(content) if suffix else content)
    assert found.keys() == {"bad", "worse"}
    assert "no_such_field" in found["bad"]["error"]["message"]
    with pytest.raises(BatchFileError, match=r"the output .*errors.* exists"):
        run(source, source.with_name("other.jsonl"), errors=errors)


def test_an_output_is_written_even_if_it_is_empty(source: Path):
    source.write_text(NO_FIELD)
    output, errors = source.with_name("out.jsonl.gz"), source.with_name("errors.jsonl")
    run(source, output, errors=errors)
    assert gzip.decompress(output.read_bytes()) == b""
    assert run(source, output, errors=errors, resume=True).refused == 1


def test_a_result_in_both_files(source: Path, expected: dict):
    output, errors = source.with_name("expected.jsonl"), source.with_name("errors.jsonl")
    errors.write_bytes(output.read_bytes().splitlines(keepends=True)[2])
    with pytest.raises(
        BatchFileError, match=rf"line 1 of .*{errors} .*, as line 3 of {output} did"
    ):
        run(source, output, errors=errors, resume=True)


@pytest.mark.parametrize("name", ["in.jsonl", "out.jsonl", "-"])
def test_errors_into_another_of_the_files(source: Path, name: str):
    errors = name if name == "-" else source.with_name(name)
    with pytest.raises(BatchFileError, match=r"are the same file|a file of their own"):
        run(source, source.with_name("out.jsonl"), errors=errors)  # pyright: ignore


# ---- standard output ----------------------------------------------------------------------------


def test_standard_output_has_results_only(
    source: Path, expected: dict, capfd: pytest.CaptureFixture[str]
):
    class Talking(StubEngine):
        def stream(self, requests):
            os.write(1, b"from a library\n")
            os.system("echo from a child")
            yield from super().stream(requests)

    run(source, "-", Talking())
    captured = capfd.readouterr()
    assert results_in(captured.out.encode()) == expected
    assert captured.err == "from a library\nfrom a child\n"
    os.write(1, b"given back\n")
    assert capfd.readouterr().out == "given back\n"


def test_standard_output_cannot_be_resumed(source: Path):
    with pytest.raises(BatchFileError, match="--resume needs a file"):
        run(source, "-", resume=True)


def test_nobody_reads_standard_output(source: Path):
    reading, writing = os.pipe()
    saved = os.dup(1)
    os.dup2(writing, 1)
    os.close(writing)
    os.close(reading)
    try:
        with pytest.raises(BatchFileError, match="cannot write to standard output: Broken pipe"):
            run(source, "-")
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def test_the_command_between_two_pipes(source: Path, expected: dict):
    command = [sys.executable, HERE / "stub_main.py", "run-batch", "-i", "-", "-o", "-"]
    done = subprocess.run(
        [*command, "--model", source.parent, "--errors", source.with_name("errors.jsonl.gz")],
        input=source.read_bytes() + NO_FIELD.encode(),
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(HERE.parent.parent)},
    )
    assert done.returncode == 3, done.stderr
    assert texts(results_in(done.stdout)) == texts(expected)
    assert "13 requests in 0:0" in done.stderr.decode()
    assert "-> standard output; 1 could not be served: see " in done.stderr.decode()
    errors = gzip.decompress(source.with_name("errors.jsonl.gz").read_bytes())
    assert results_in(errors).keys() == {"bad"}


def texts(found: dict[str, dict]) -> dict[str, str]:
    return {name: each["response"]["body"]["choices"][0]["text"] for name, each in found.items()}
