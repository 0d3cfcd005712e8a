"""kill -9 at random points, then --resume: each request is answered once, and the same."""

import dataclasses
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from jobs import HERE, Job, n_bytes_in, request_line, results
from tiny_llama import VOCAB, write_tiny_llama


@dataclasses.dataclass(frozen=True)
class Disturbed:
    """A job that can be run undisturbed, or killed again and again."""

    program: Sequence[str]
    source: Path
    options: Sequence[str]
    env: Mapping[str, str]
    killed_output: str = "killed.jsonl"

    def start(self, output: Path, *more: str) -> Job:
        return Job(self.program, self.source, output, *self.options, *more, env=self.env)

    def undisturbed(self) -> tuple[dict[str, dict], int]:
        """The results of a job that ran through, and the size of its output."""
        job = self.start(self.source.with_name("whole.jsonl"))
        assert job.end() == 0, job.log()
        return results(job.output), job.output.stat().st_size

    def killed(
        self, n_kills: int, n_bytes: int, choose: random.Random
    ) -> Iterator[dict[str, dict]]:
        """The results of jobs that were killed n_kills times in all, and resumed as often.

        A kill comes when the output has grown by a random part of n_bytes, sometimes before
        it grows at all. After some, the last line is torn as well, as by a power cut. One job
        serves for all kills, unless it ends before its next one.
        """
        output = self.source.with_name(self.killed_output)
        n_killed = 0
        while n_killed < n_kills:
            grown = choose.randrange(2 * n_bytes // n_kills)
            job = self.start(output, "--resume")
            size = max(0, n_bytes_in(job.lines))
            if choose.random() < 0.2:
                time.sleep(choose.uniform(0, 2))
            elif not job.wait_for_bytes(size + grown):
                assert job.end() == 0, job.log()
                yield results(output)
                output.unlink()
                continue
            job.kill()
            n_killed += 1
            if job.lines.exists() and choose.random() < 0.5:
                os.truncate(job.lines, max(0, n_bytes_in(job.lines) - choose.randrange(200)))
        job = self.start(output, "--resume")
        assert job.end() == 0, job.log()
        yield results(output)


KILLS = pytest.mark.parametrize(
    "n_kills", [3, pytest.param(20, marks=pytest.mark.slow)], ids="{}-kills".format
)


@KILLS
@pytest.mark.parametrize("output", ["killed.jsonl", "killed.jsonl.gz"])
def test_with_the_stub(tmp_path: Path, output: str, n_kills: int):
    source = tmp_path / "in.jsonl"
    prompts = [f"{'x' * (i % 9)}{i}" for i in range(200)]
    source.write_text(
        "".join(request_line(str(i), prompt=p, max_tokens=16) for i, p in enumerate(prompts))
    )
    program = [str(HERE / "stub_main.py")]
    options = ["--model", str(tmp_path), "--progress", "none"]
    job = Disturbed(program, source, options, {"NSPJAX_STUB_SECONDS": "0.005"}, output)
    whole, n_bytes = job.undisturbed()
    for found in job.killed(n_kills, n_bytes, random.Random(n_kills)):
        assert found == whole


@KILLS
@pytest.mark.parametrize("where", [pytest.param("memory", marks=pytest.mark.slow), "storage"])
def test_with_a_model(tmp_path: Path, where: str, n_kills: int):
    model = write_tiny_llama(tmp_path / "tiny-llama")
    source = tmp_path / "in.jsonl"
    choose = random.Random(n_kills)
    with source.open("w") as file:
        for i in range(30 + 2 * n_kills):
            prompt = [choose.randrange(VOCAB) for _ in range(choose.randrange(1, 60))]
            settings = {"max_tokens": choose.randrange(8, 100), "temperature": i % 3 // 2}
            file.write(request_line(f"request {i}", prompt=prompt, **settings))
    options = ["--model", str(model), "--max-num-seqs", "4", "--max-model-len", "192"]
    if where == "storage":
        (tmp_path / "kv").mkdir()
        options += ["--store", str(tmp_path / "kv"), "--host-memory", "64MiB"]
    job = Disturbed(["-m", "nspjax"], source, options, {})
    whole, n_bytes = job.undisturbed()
    for found in job.killed(n_kills, n_bytes, choose):
        assert found == whole
