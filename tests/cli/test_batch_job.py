"""A job from file to file, over the stub engine."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_engine import StubEngine

from nspjax.errors import BatchFileError, StorageIOError
from nspjax.generate.batch.job import BatchJob, BatchProgress


def line(custom_id: str, url: str = "/v1/completions", **body: object) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}) + "\n"


class Files:
    """An input and an output in a directory of their own."""

    def __init__(self, folder: Path, *lines: str):
        self.input, self.output = folder / "in.jsonl", folder / "out.jsonl"
        self.input.write_text("".join(lines))

    def run(self, engine: StubEngine | None = None, **how: bool) -> BatchProgress:
        with BatchJob(str(self.input), str(self.output), model="stub", **how) as job:
            return job.run(engine or StubEngine())

    def results(self) -> list[dict]:
        return [json.loads(text) for text in self.output.read_text().splitlines()]

    def by_id(self) -> dict[str, dict]:
        return {r["custom_id"]: without_time(r) for r in self.results()}


def without_time(result: dict) -> dict:
    result["response"]["body"].pop("created", None)
    return result


def test_results_are_openais(tmp_path: Path):
    chat = [{"role": "user", "content": "hello"}]
    files = Files(
        tmp_path,
        line("text", prompt="xyz", max_tokens=4),
        line("chat", "/v1/chat/completions", messages=chat, max_tokens=4),
        line("ids", prompt=[1, 2], max_tokens=4),
    )
    assert files.run() == BatchProgress(total=3, answered=3, refused=0, before=0)
    results = files.by_id()
    body = results["text"]["response"]["body"]
    assert results["text"]["response"]["status_code"] == 200
    assert results["text"]["error"] is None
    assert (body["object"], body["model"]) == ("text_completion", "stub")
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    (choice,) = body["choices"]
    assert len(choice["text"]) == 4
    assert (choice["index"], choice["finish_reason"]) == (0, "length")
    body = results["chat"]["response"]["body"]
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["role"] == "assistant"
    choice = results["ids"]["response"]["body"]["choices"][0]
    assert (choice["prompt_token_ids"], len(choice["token_ids"])) == ([1, 2], 4)


def test_several_prompts_give_one_result(tmp_path: Path):
    files = Files(tmp_path, line("a", prompt=["a longer prompt", "x"], n=2), line("b", prompt="x"))
    files.run()
    several = files.by_id()["a"]["response"]["body"]
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2, 3]
    assert several["usage"]["prompt_tokens"] == 16
    single = Files(tmp_path / "..", line("a", prompt="x", n=2))
    single.output.unlink(missing_ok=True)
    single.run()
    alone = single.by_id()["a"]["response"]["body"]["choices"]
    assert [c["text"] for c in several["choices"][2:]] == [c["text"] for c in alone]


def test_bad_requests_become_error_lines_and_the_job_goes_on(tmp_path: Path):
    files = Files(
        tmp_path,
        line("long", prompt="x" * 500),
        line("field", prompt="x", best_of=3),
        line("url", "/v1/embeddings", input="x"),
        line("later", prompt=["x", "y" * 500]),
        line("good", prompt="x"),
    )
    assert files.run() == BatchProgress(total=5, answered=1, refused=4, before=0)
    results = files.by_id()
    assert results["good"]["error"] is None
    for name, code, message in (
        ("long", "invalid_request", "too long for the context"),
        ("field", "unsupported_field", '"best_of": 3 is not supported'),
        ("url", "unknown_endpoint", "no endpoint"),
        ("later", "invalid_request", "too long for the context"),
    ):
        assert results[name]["response"]["status_code"] == 400
        assert results[name]["error"]["code"] == code
        assert message in results[name]["error"]["message"]
        assert (
            results[name]["response"]["body"]["error"]["message"]
            == (results[name]["error"]["message"])
        )


def test_another_model_is_counted_and_answered(tmp_path: Path):
    files = Files(tmp_path, line("a", prompt="x", model="gpt"), line("b", prompt="x", model="stub"))
    with BatchJob(str(files.input), str(files.output), model="stub") as job:
        job.run(StubEngine())
        assert job.other_models == {"gpt": 1}


def test_a_failure_keeps_what_was_finished(tmp_path: Path):
    files = Files(tmp_path, *(line(str(i), prompt="x") for i in range(9)))
    with pytest.raises(StorageIOError, match="EIO"):
        files.run(StubEngine(fail_after=5, failure=StorageIOError("EIO at offset 4096")))
    assert len(files.results()) == 5
    engine = StubEngine()
    assert files.run(engine, resume=True) == BatchProgress(9, answered=9, refused=0, before=5)
    assert len(engine.served) == 4


def test_overwrite_keeps_the_old_results_until_the_job_runs(tmp_path: Path):
    files = Files(tmp_path, line("a", prompt="x"))
    files.output.write_text("precious\n")
    with BatchJob(str(files.input), str(files.output), model="stub", overwrite=True):
        assert files.output.read_text() == "precious\n"
    files.run(overwrite=True)
    assert [r["custom_id"] for r in files.results()] == ["a"]


def test_one_file_for_both(tmp_path: Path):
    files = Files(tmp_path, line("a", prompt="x"))
    files.output.symlink_to(files.input)
    with pytest.raises(BatchFileError, match="same file"):
        files.run(overwrite=True)


REQUESTS = [line(str(i), prompt="x" * (i % 7 + 1), temperature=i % 2) for i in range(12)] + [
    line("long", prompt="x" * 500),
    line("several", prompt=["a", "b"], n=2),
]


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_stops_and_torn_tails_leave_no_trace(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    undisturbed = Files(tmp_path_factory.mktemp("whole"), *REQUESTS)
    undisturbed.run()
    files = Files(tmp_path_factory.mktemp("torn"), *REQUESTS)
    for fail_after in data.draw(st.lists(st.integers(0, 6), max_size=4)):
        failing = StubEngine(fail_after=fail_after, failure=StorageIOError("EIO"))
        with contextlib.suppress(StorageIOError):  # raised, unless too little was left
            files.run(failing, resume=True)
        torn = data.draw(st.integers(0, 40))
        with files.output.open("rb+") as file:
            file.truncate(max(0, files.output.stat().st_size - torn))
    files.run(resume=True)
    assert len(files.results()) == len(REQUESTS)
    assert files.by_id() == undisturbed.by_id()
