"""`nspjax run-batch` as a user meets it: messages, exit codes, options."""

import contextlib
import functools
import inspect
import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from stub_engine import StubEngine, loaded
from typer.testing import CliRunner, Result

from nspjax import errors
from nspjax.cli import app
from nspjax.cli.answer_settings import MAX_NUM_SEQS
from nspjax.cli.progress import ProgressReporter, ProgressStyle
from nspjax.generate import LLM
from nspjax.generate.batch.output import open_output

Run = Callable[..., Result]


def line(custom_id: str, **body: object) -> str:
    body = {"prompt": "x", "max_tokens": 4} | body
    return (
        json.dumps(
            {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}
        )
        + "\n"
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with an input of two requests and a directory for a model."""
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text(line("a") + line("b"))
    Path("model").mkdir()
    return tmp_path


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command; keyword arguments are the stub engine's."""

    def run(*options: str, load: object = None, **stub: object) -> Result:
        load = load or functools.partial(loaded, StubEngine(**stub))  # pyright: ignore
        monkeypatch.setattr("nspjax.cli.run_batch.load_engine", load)
        given = ["-i", "in.jsonl", "-o", "out.jsonl", "--model", "model", *options]
        return CliRunner().invoke(app, ["run-batch", *given])

    return run


def n_results() -> int:
    return len(Path("out.jsonl").read_text().splitlines())


# ---- how it ends --------------------------------------------------------------------------------


def test_all_answered(run: Run):
    result = run()
    assert result.exit_code == 0
    assert re.search(r"^2 requests in \d+:\d\d -> out.jsonl$", result.stderr, re.MULTILINE)
    assert "prefill   2 tokens, 2.0 tokens/s" in result.stderr
    assert "decode    8 tokens, 4.0 tokens/s" in result.stderr
    assert "at its peak" in result.stderr
    assert result.stdout == ""
    assert n_results() == 2


def test_some_requests_refused(run: Run):
    Path("in.jsonl").write_text(line("a") + line("b", best_of=2) + line("c", model="gpt"))
    result = run()
    assert result.exit_code == 3
    assert "1 could not be served: see their error lines" in result.stderr
    assert '1 request named another model, such as "gpt"; this one answered them' in result.stderr


def test_resume(run: Run):
    run(fail_after=1, failure=errors.StorageIOError("EIO"))
    result = run("--resume")
    assert result.exit_code == 0
    assert re.search(r"^1 request in .* -> out.jsonl \(1 finished before\)$", result.stderr, re.M)
    assert "nothing to do" in run("--resume").stderr
    assert n_results() == 2


def test_overwrite(run: Run):
    run()
    assert run("--overwrite").exit_code == 0
    assert n_results() == 2


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (["--dtype", "float16"], "dtype was auto and is float16"),
        (["--kv-dtype", "bfloat16"], "kv_dtype was auto and is bfloat16"),
        (["--max-num-seqs", "4"], "max_num_seqs was 16 and is 4"),
        (["--max-model-len", "99"], "max_model_len was auto and is 99"),
        (["--seed", "7"], "seed was 0 and is 7"),
        (["--store", "memory:"], "devices was 0 and is 1"),
        (["--store", "memory:", "--share-prefixes"], "share_prefixes was none and is True"),
        (["--store", "memory:", "--pipeline", "ans"], "pipeline was none and is ans"),
        (["--store", "memory:", "--interval-tokens", "16"], "interval_tokens was none and is 16"),
        (
            ["--speculative", '{"method": "ngram", "num_speculative_tokens": 5}'],
            "speculative was none and is 5,4,2",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_resume_with_other_settings(run: Run, options: list[str], difference: str):
    run(fail_after=1, failure=errors.StorageIOError("EIO"))
    before = Path("out.jsonl").read_bytes()
    result = run("--resume", *options)
    assert result.exit_code == 2
    assert difference in result.stderr
    assert Path("out.jsonl").read_bytes() == before
    assert run("--resume", "--progress", "none", "--max-num-seqs", "16").exit_code == 0


def test_settings_that_change_no_answer_are_not_compared(run: Run):
    run("--store", "memory:", fail_after=1, failure=errors.StorageIOError("EIO"))
    options = ("--store", "elsewhere", "--host-memory", "1MiB", "--weights-resident", "0")
    assert run("--resume", *options).exit_code == 0


def test_flags_of_xla_are_compared(run: Run, monkeypatch: pytest.MonkeyPatch):
    run(fail_after=1, failure=errors.StorageIOError("EIO"))
    monkeypatch.setenv("XLA_FLAGS", "--xla_a=1  --xla_b=2")
    assert "xla_flags was none and is --xla_a=1,--xla_b=2" in run("--resume").stderr


def test_the_default_is_the_engines():
    assert inspect.signature(LLM).parameters["max_num_seqs"].default == MAX_NUM_SEQS


def test_the_output_is_removed_while_the_job_runs(run: Run):
    class Removing(StubEngine):
        def stream(self, requests):
            for output in super().stream(requests):
                Path("out.jsonl").unlink(missing_ok=True)
                yield output

    result = run(load=functools.partial(loaded, Removing()))
    assert result.exit_code == 1
    assert "the output out.jsonl was removed or replaced while the job ran" in result.stderr
    assert "are finished in" not in result.stderr
    (copy,) = Path().glob("nspjax-results-*.jsonl")
    assert len(copy.read_text().splitlines()) == 2
    copy.rename("out.jsonl")
    assert run("--resume").exit_code == 0


def test_a_stop_with_a_disturbed_output_says_so(run: Run):
    class Removing(StubEngine):
        def stream(self, requests):
            yield next(iter(super().stream(requests)))
            Path("out.jsonl").write_text("")
            raise errors.StorageIOError("EIO")

    result = run(load=functools.partial(loaded, Removing()))
    assert result.exit_code == 1
    assert re.search(r"error: EIO\nthe output .* was cut from \d+ to 0 bytes", result.stderr)


def test_a_line_that_is_not_json_after_all(run: Run):
    Path("in.jsonl").write_text(line("a") + line("b").replace(": 4", ": NaN") + line("c"))
    result = run()
    assert result.exit_code == 3
    results = Path("out.jsonl").read_text().splitlines()
    found = {value["custom_id"]: value for value in map(json.loads, results)}
    assert found.keys() == {"a", "b", "c"}
    assert found["b"]["error"]["message"] == "not JSON: NaN is not a JSON value"
    assert "nothing to do" in run("--resume").stderr


def test_paths_of_any_bytes(run: Run):
    names = [os.fsdecode(b"in\xe9"), os.fsdecode(b"out\xe9"), os.fsdecode(b"m\xe9")]
    os.rename("in.jsonl", names[0])
    os.rename("model", names[2])
    options = ("-i", names[0], "-o", names[1], "--model", names[2])
    assert run(*options).exit_code == 0
    assert len(Path(names[1]).read_bytes().splitlines()) == 2
    assert "nothing to do" in run(*options, "--resume").stderr


def test_a_message_that_the_terminal_cannot_show():
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", "strict")
    ProgressReporter(ProgressStyle.plain, stream).say("out\udce9 … é")
    assert stream.buffer.getvalue() == b"out\\udce9 \\u2026 \\xe9\n"  # pyright: ignore


def test_quiet(run: Run):
    assert run("--progress", "none").stderr == ""


@pytest.mark.parametrize(
    "failure", [errors.StoreFullError("/mnt/kv is full"), errors.StorageIOError("EIO at 4096")]
)
def test_the_engine_fails(run: Run, failure: Exception):
    result = run(fail_after=1, failure=failure)
    assert result.exit_code == 1
    assert f"error: {failure}\n1 of 2 requests are finished in out.jsonl" in result.stderr
    assert "--resume" in result.stderr
    assert "Traceback" not in result.stderr
    assert n_results() == 1


def test_what_was_not_foreseen(run: Run):
    failure = ZeroDivisionError("division by zero")
    result = run(fail_after=0, failure=failure)
    assert result.exit_code == 1
    assert "error: ZeroDivisionError: division by zero\nThis was not foreseen" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in run("--debug", "--overwrite", fail_after=0, failure=failure).stderr


# ---- what is refused before work starts ---------------------------------------------------------


@pytest.fixture
def refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The message of a command that is refused without loading a model or touching a file."""

    def refused(*options: str) -> str:
        output = Path("out.jsonl")
        before = output.read_bytes() if output.exists() else None
        result = run(*options)
        assert result.exit_code == 2
        assert "loading" not in result.stderr
        assert "Traceback" not in result.stderr
        assert (output.read_bytes() if before is not None else None) == before
        return " ".join(result.stderr.replace("│", " ").split())

    return refused


def test_bad_input_files(refused: Callable[..., str]):
    Path("in.jsonl").write_text(line("a") + '{"custom_id": "b",}\n' + line("a"))
    message = refused()
    assert "the input in.jsonl was refused" in message
    assert "line 2: not JSON" in message
    assert 'line 3: the custom_id "a" is that of line 1 too' in message
    Path("in.jsonl").write_text("")
    assert "holds no request" in refused()
    Path("in.jsonl").unlink()
    assert "cannot read the input in.jsonl: No such file or directory" in refused()


def test_the_output_exists(refused: Callable[..., str]):
    Path("out.jsonl").write_text("something\n")
    assert "the output out.jsonl exists: --resume" in refused()
    assert "is no result line" in refused("--resume")
    assert "exclude each other" in refused("--resume", "--overwrite")


def test_the_output_cannot_be_written(refused: Callable[..., str]):
    assert "there is no directory none" in refused("-o", "none/out.jsonl")
    assert "Is a directory" in refused("-o", "model")
    assert "same file" in refused("-o", "in.jsonl", "--overwrite")
    with contextlib.closing(open_output("out.jsonl", keep=False, replace=False)):
        assert "another job is writing" in refused("--resume")


def test_models_that_are_not_there(refused: Callable[..., str]):
    for model in ("none", "./none", "/none/at/all", "a/b/c"):
        assert f"--model {model}: there is no such directory" in refused("--model", model)
    assert "--model in.jsonl is a file" in refused("--model", "in.jsonl")
    assert "--model a/b.gguf: there is no such file" in refused("--model", "a/b.gguf")


def test_bad_options(refused: Callable[..., str]):
    assert "'much' is no size" in refused("--store", "memory:", "--host-memory", "much")
    assert "it needs --store" in refused("--host-memory", "1GiB")
    assert "--max-num-seqs" in refused("--max-num-seqs", "0")
    assert "--dtype" in refused("--dtype", "int8")
    assert "it needs --store" in refused("--interval-tokens", "16")
    assert "--progress" in refused("--progress", "loud")
    assert "--speculative is no JSON" in refused("--speculative", "ngram")
    assert "no setting 'k'" in refused(
        "--speculative", '{"method": "ngram", "num_speculative_tokens": 3, "k": 3}'
    )


@pytest.mark.parametrize("kind", ["fifo", "link", "/dev/null", "socket", "long"])
def test_a_trace_that_is_no_ordinary_file(refused: Callable[..., str], kind: str):
    os.mkfifo("fifo")
    os.symlink("fifo", "link")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
    path, reason = kind, "is no ordinary file"
    if kind == "long":
        path, reason = "x" * 256, "File name too long"
    assert reason in refused("--store", "memory:", "--trace", path)


def test_what_the_store_refuses(run: Run):
    @contextlib.contextmanager
    def load(_options: object):
        raise errors.StorePathError("/mnt/kv: there is no such directory")
        yield

    result = run(load=load)
    assert result.exit_code == 2
    assert "error: /mnt/kv: there is no such directory" in result.stderr
    assert n_results() == 0


# ---- the command itself -------------------------------------------------------------------------


def test_help_and_version_import_nothing_heavy():
    code = "import sys, nspjax.cli\nnspjax.cli.app({}, standalone_mode=False)\n"
    code += "assert not {{'jax', 'numpy', 'orjson'}} & sys.modules.keys()"
    for arguments in (["--help"], ["--version"], ["run-batch", "--help"]):
        command = [sys.executable, "-c", code.format(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_help_names_the_exit_codes():
    text = CliRunner().invoke(app, ["run-batch", "--help"]).stdout
    for code in ("0", "1", "2", "3", "130", "143"):
        assert f" {code} " in text
