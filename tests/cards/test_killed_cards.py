"""A batch job on four emulated cards, of which one is killed now and then: the job ends soon, says
why, leaves nothing behind, and goes on with --resume."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from on_cards import emulated

MODEL = Path(__file__).parents[2] / "examples/tiny-python-llama"
CARDS = 4
N_ROWS, PROMPT_BYTES, MAX_TOKENS = 4, 700, 64  # more than host memory keeps
SOON_S = 10


def write_requests(path, n):
    with path.open("w") as file:
        for i in range(n):
            prompt = f"def f{i:03}(x):\n".ljust(PROMPT_BYTES, "#")
            body = {"prompt": prompt, "max_tokens": MAX_TOKENS, "temperature": 0}
            line = {"custom_id": f"r{i}", "method": "POST", "url": "/v1/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def results(output):
    found = {}
    for line in output.read_text().splitlines() if output.exists() else ():
        result = json.loads(line)
        assert result["custom_id"] not in found
        found[result["custom_id"]] = result["response"]["body"]["choices"][0]["text"]
    return found


class Job:
    """`nspjax run-batch --resume` on the cards, stderr in a file."""

    def __init__(self, source, output, directory):
        self._log = output.with_suffix(".log")
        self._events = output.with_suffix(f".{time.monotonic_ns()}.events")
        options = ["--dir", str(directory), "--log", str(self._events)]
        command = [
            sys.executable, "-m", "nspjax", "run-batch", "-i", source, "-o", output, "--resume",
            "--model", MODEL, "--store", "xrt:" + ",".join(map(str, range(CARDS))),
            "--max-num-seqs", N_ROWS, "--host-memory", "4MiB", "--progress", "none",
        ]  # fmt: skip
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                emulated(command, cards=CARDS, options=options), stderr=log
            )

    def cards(self):
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
            return [child for child in children if child.cmdline()[:1] == ["nspjax-xrt-card"]]
        except psutil.Error:
            return []

    def log(self):
        return self._log.read_text()

    def decodes(self):
        """Waits until a card has its first run. False: the job ended before."""
        while not (self._events.exists() and '"run_begin"' in self._events.read_text()):
            if self.process.poll() is not None:
                return False
            time.sleep(0.02)
        return True


def end_with_a_kill(job, choose, seconds):
    """Kills a card after a part of the seconds in which it decodes. False: too late."""
    if not job.decodes():
        assert job.process.wait(60) == 0, job.log()
        return False
    time.sleep(choose.uniform(0, seconds))
    cards = job.cards()
    if not cards:
        assert job.process.wait(60) == 0, job.log()
        return False
    killed = time.monotonic()
    choose.choice(cards).send_signal(signal.SIGKILL)
    code = job.process.wait(60)
    seconds_after = time.monotonic() - killed
    if code == 0:
        assert seconds_after < 1, "it had attended for the last time"
        return False
    assert seconds_after < SOON_S
    assert code == 1, job.log()
    assert "without its results: the card was reset or lost" in job.log()
    return True


@pytest.mark.parametrize("n_kills", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_the_job_goes_on(n_kills, tmp_path):
    n_requests = N_ROWS if n_kills == 1 else 40
    assert n_kills == 1 or n_requests // N_ROWS * MAX_TOKENS >= 500, "decode steps"
    source, directory = tmp_path / "in.jsonl", tmp_path / "cards"
    directory.mkdir()
    write_requests(source, n_requests)

    whole = Job(source, tmp_path / "whole.jsonl", directory)
    assert whole.decodes(), whole.log()
    begin = time.monotonic()
    assert whole.process.wait(300) == 0, whole.log()
    seconds = time.monotonic() - begin
    expected = results(tmp_path / "whole.jsonl")
    assert len(expected) == n_requests

    choose = random.Random(n_kills)
    output = tmp_path / "killed.jsonl"
    kills = 0
    for _ in range(4 * n_kills):
        n_before = len(results(output))
        job = Job(source, output, directory)
        if end_with_a_kill(job, choose, seconds):
            kills += 1
        assert len(results(output)) >= n_before
        assert os.listdir(directory) == [], "no directory of the cards, no socket"
        assert not [p for p in psutil.process_iter() if is_card_of(p, directory)]
        if kills == n_kills:
            break
        if len(results(output)) == n_requests:
            output.unlink()
    assert kills == n_kills

    last = Job(source, output, directory)
    assert last.process.wait(300) == 0, last.log()
    assert results(output) == expected


def is_card_of(process, directory):
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return command[:1] == ["nspjax-xrt-card"] and any(str(directory) in part for part in command)
