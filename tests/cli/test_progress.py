"""The progress line and the lines it may not garble."""

import io
import time

import pytest

from nspjax.cli.progress import ProgressReporter, ProgressStyle, Sample, clock, progress_line
from nspjax.generate import GenerationStats
from nspjax.generate.batch.job import BatchProgress
from nspjax.generate.batch.work import Work

NO_WORK = Work({}, 0, 0, 0, (), {})


def sample(seconds: float, finished: int, *bytes_: int, work: Work = NO_WORK, **stats) -> Sample:
    job = BatchProgress(total=10, answered=finished, refused=0, before=2)
    return Sample(seconds, job, GenerationStats(**stats), work, *bytes_)


FIRST = sample(100.0, 2, 0, 0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_of_a_job_on_storage():
    past = sample(110.0, 3, 0, 10**9, prompt_tokens=1000, generated_tokens=100)
    now = sample(120.0, 6, 2**31, 21 * 10**9, prompt_tokens=1500, generated_tokens=350)
    assert progress_line(FIRST, past, now) == (
        "6/10 requests · 25.0 tokens/s · 1,500 prompt tokens read · KV stored 2.00 GiB · "
        "read 2.00 GB/s"
    )


def test_the_line_of_a_job_that_compiles():
    first = sample(0.0, 2)
    now = sample(3.0, 2, prompt_tokens=4096, compiling=True)
    assert progress_line(first, first, now) == (
        "compiling · 2/10 requests · 0.0 tokens/s · 4,096 prompt tokens read"
    )


def test_the_line_says_what_is_left():
    """Two of ten answers of 20 tokens are done, and their rows took a second a step."""
    work = Work({20: 6}, 600, 400, 400, (20, 20), {(5, 20, False): 2})
    done = {"prompt_tokens": 400, "prefill_seconds": 4.0, "decode_seconds": 20.0}
    done |= {"generated_tokens": 40, "decode_steps": 20, "running": ((0, 20), (0, 20))}
    now = sample(124.0, 4, work=work, **done)
    assert progress_line(FIRST, FIRST, now).endswith(" · 1:26 left")  # 80 steps, 600 tokens


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (65.4, "1:05"), (3725, "1:02:05"), (3599.7, "1:00:00")]
)
def test_clock(seconds: float, text: str):
    assert clock(seconds) == text


def reported(style: ProgressStyle, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    reporter = ProgressReporter(style, stream)
    monkeypatch.setattr(reporter, "_period", 0.01)
    with reporter.watching(lambda: FIRST):
        while style != ProgressStyle.none and "2/10" not in stream.getvalue():
            time.sleep(0.001)
        reporter.say("a warning")
        reporter.note("a note")
    return stream.getvalue()


def test_a_live_line_is_erased_before_others_and_at_the_end(monkeypatch: pytest.MonkeyPatch):
    text = reported(ProgressStyle.auto, Terminal(), monkeypatch)
    shown = text.replace("\r\x1b[2K", "\0")
    assert all(part.count("\n") <= 2 for part in shown.split("\0"))
    assert "\0a warning\n" in shown
    assert "requests" not in shown.split("\0")[-1]


@pytest.mark.parametrize("style", [ProgressStyle.auto, ProgressStyle.plain])
def test_plain_lines_where_there_is_no_terminal(
    style: ProgressStyle, monkeypatch: pytest.MonkeyPatch
):
    lines = reported(style, io.StringIO(), monkeypatch).splitlines()
    assert lines[0].startswith("2/10 requests")
    assert "a warning" in lines
    assert "\x1b" not in "".join(lines)


def test_none_says_only_what_matters(monkeypatch: pytest.MonkeyPatch):
    assert reported(ProgressStyle.none, io.StringIO(), monkeypatch) == "a warning\n"
