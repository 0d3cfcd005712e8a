"""The progress line and the lines it may not garble."""

import io
import time

import pytest

from nspjax.cli.progress import ProgressReporter, ProgressStyle, Sample, clock, progress_line

FIRST = Sample(100.0, 10, 2, 2, 0, 0, 0, 0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_line_of_a_job_on_storage():
    past = Sample(110.0, 10, 3, 2, 500, 100, 0, 10**9)
    now = Sample(120.0, 10, 6, 2, 500, 350, 2**31, 21 * 10**9)
    assert progress_line(FIRST, past, now) == (
        "6/10 requests · 25.0 tokens/s · KV stored 2.00 GiB · read 2.00 GB/s · 0:20 left"
    )


def test_the_line_of_a_job_in_memory_that_has_just_begun():
    first = Sample(0.0, 10, 0, 0, 0, 0)
    now = Sample(3.0, 10, 0, 0, 4096, 0)
    assert progress_line(first, first, now) == "0/10 requests · 4096 prompt tokens read"


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
