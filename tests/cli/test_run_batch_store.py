"""`nspjax run-batch` over a real model and a real store: the options that are a store's."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs import request_line, results
from tiny_llama import write_tiny_llama
from typer.testing import CliRunner, Result

import nspjax
from nspjax.cli import app


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny-llama")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text(
        "".join(
            request_line(str(i), prompt=[i + 1] * 70, max_tokens=6, temperature=0) for i in range(3)
        )
    )

    def run(*options: str) -> Result:
        given = ["-i", "in.jsonl", "-o", "out.jsonl", "--model", str(model), *options]
        return CliRunner().invoke(app, ["run-batch", *given, "--max-num-seqs", "2"])

    return run


def test_the_trace_and_where_host_memory_went(run: Callable[..., Result]):
    result = run("--store", "memory:", "--host-memory", "64MiB", "--trace", "trace.json")
    assert result.exit_code == 0, result.stderr
    assert len(results(Path("out.jsonl"))) == 3
    events = json.loads(Path("trace.json").read_text())["traceEvents"]
    assert {"append", "attend"} <= {event["name"].split()[0] for event in events}
    lanes = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    served = {e["name"]: lanes[e["tid"]] for e in events if e.get("cat") == "span"}
    assert served.keys() == results(Path("out.jsonl")).keys()
    assert set(served.values()) == {"row 0", "row 1"}
    assert "of the store's: " in result.stderr
    for part in ("staging", "tails", "pinned"):
        assert part in result.stderr


def test_a_part_of_v_is_read_and_told(run: Callable[..., Result]):
    store = ("--store", "memory:", "--host-memory", "64MiB", "--interval-tokens", "16")
    result = run(*store, "--attention", "mass=0.5,block-tokens=16")
    assert result.exit_code == 0, result.stderr
    told = re.search(
        r"attention V of ([\d.]+)% of the tokens; of the softmax, ([\d.]+)% is estimated, at most "
        r"([\d.]+)%",
        result.stderr,
    )
    assert told is not None, result.stderr
    read, left_out, most = map(float, told.groups())
    assert 0 < read <= 100
    assert left_out <= most <= 50
    assert "sketches" in result.stderr
    other = run(*store, "--attention", "mass=0.6", "--resume")
    assert other.exit_code != 0
    assert "attention" in other.stderr
    without = run("--attention", "mass=0.5", "--overwrite")
    assert "--attention is how a store is read: it needs --store" in without.stderr


def test_a_trace_that_cannot_be_written_costs_no_answer(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
):
    directory, save = Path("traces"), nspjax.Store.save_trace
    directory.mkdir()

    def save_without_directory(store, *what):
        directory.rmdir()
        save(store, *what)

    monkeypatch.setattr(nspjax.Store, "save_trace", save_without_directory)
    result = run("--store", "memory:", "--trace", "traces/trace.json")
    assert result.exit_code == 0
    assert "warning: there is no trace: " in result.stderr
    assert "traces/trace.json" in result.stderr
    assert len(results(Path("out.jsonl"))) == 3


def test_weights_in_the_store_give_the_same_answers(run: Callable[..., Result]):
    def answers(*options: str) -> list[str]:
        result = run("--store", "memory:", "--overwrite", *options)
        assert result.exit_code == 0, result.stderr
        assert ("in the store, " in result.stderr) == bool(options)
        lines = results(Path("out.jsonl")).values()
        return sorted(str(line["response"]["body"]["choices"]) for line in lines)

    assert answers("--weights-resident", "10KiB") == answers()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--weights-resident", "1GiB"],
            "the rest is in a store: give --store",
        ),
        (["--weights-resident", "much", "--store", "memory:"], "'much' is no size"),
        (["--kv-dtype", "int8"], "--kv-dtype int8 is a store's: it needs --store"),
        (["--kv-dtype", "int4"], "--kv-dtype int4 is a store's: it needs --store"),
        (["--kv-dtype", "int7"], "'int7' is not one of"),
        (["--pipeline", "ans"], "--pipeline is of passes for a store: it needs --store"),
        (["--store", "memory:", "--pipeline", "fast"], "there is no pass 'fast'"),
        (["--trace", "trace.json"], "--trace shows what a store does: it needs --store"),
        (["--store", "memory:", "--trace", "none/trace.json"], "has no directory none"),
        (["--store", "memory:", "--trace", "in.jsonl"], "is the input or the output"),
    ],
)
def test_refused_before_work_starts(run: Callable[..., Result], options: list[str], message: str):
    result = run(*options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "loading" not in result.stderr
    assert not Path("out.jsonl").exists()
