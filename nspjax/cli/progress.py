"""How a job tells its progress on stderr: one live line, or now and then a plain one."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

from nspjax.byte_size import format_bytes
from nspjax.cli.time_left import seconds_left

if TYPE_CHECKING:
    from nspjax.generate import GenerationStats
    from nspjax.generate.batch.job import BatchProgress
    from nspjax.generate.batch.work import Work

_WINDOW_SECONDS = 20.0
"""Rates are those of this long a past."""


class ProgressStyle(enum.StrEnum):
    """auto: a live line on a terminal, else a plain line every few seconds."""

    auto = "auto"
    plain = "plain"
    none = "none"


@dataclasses.dataclass(frozen=True)
class Sample:
    """The state of a job at one moment. kv_bytes, bytes_read: None where there is no store."""

    seconds: float
    job: BatchProgress
    generated: GenerationStats
    work: Work
    kv_bytes: int | None = None
    bytes_read: int | None = None


def progress_line(first: Sample, past: Sample, now: Sample) -> str:
    """One line of text. first: when the job began; past: when the window of the rates began."""
    span = max(now.seconds - past.seconds, 1e-9)
    before, done = past.generated, now.generated
    tokens_per_s = (done.generated_tokens - before.generated_tokens) / span
    parts = ["compiling"] if done.compiling else []
    parts += [
        f"{now.job.finished}/{now.job.total} requests",
        f"{tokens_per_s:.1f} tokens/s",
        f"{done.prompt_tokens:,} prompt tokens read",
    ]
    if now.kv_bytes is not None and now.bytes_read is not None and past.bytes_read is not None:
        gb_per_s = (now.bytes_read - past.bytes_read) / span / 1e9
        parts += [f"KV stored {format_bytes(now.kv_bytes)}", f"read {gb_per_s:.2f} GB/s"]
    left = seconds_left(before, done, now.work, now.seconds - first.seconds)
    if left is not None:
        parts.append(f"{clock(left)} left")
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """3725 -> "1:02:05", 65 -> "1:05"."""
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if hours:
        return f"{hours}:{minutes % 60:02}:{whole % 60:02}"
    return f"{minutes}:{whole % 60:02}"


class ProgressReporter:
    """Writes to stderr: lines that stay and, from a thread of its own, the progress of a job."""

    def __init__(self, style: ProgressStyle, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._style = style
        self._live = style == ProgressStyle.auto and self._stream.isatty()
        self._period = 0.5 if self._live else 5.0
        self._lock = threading.Lock()
        self._shown = ""

    def say(self, text: str) -> None:
        """Print a line that stays, above the live one."""
        with self._lock:
            self._erase()
            self._print(text + "\n")

    def note(self, text: str) -> None:
        """`say`, but for the style none."""
        if self._style != ProgressStyle.none:
            self.say(text)

    @contextlib.contextmanager
    def watching(self, sample: Callable[[], Sample]) -> Iterator[None]:
        """Tell what `sample` says, until the block ends."""
        if self._style == ProgressStyle.none:
            yield
            return
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(sample, stop), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            with self._lock:
                self._erase()

    def _run(self, sample: Callable[[], Sample], stop: threading.Event) -> None:
        first = sample()
        window = collections.deque([first])
        while not stop.wait(self._period):
            now = sample()
            while len(window) > 1 and now.seconds - window[1].seconds > _WINDOW_SECONDS:
                window.popleft()
            self._show(progress_line(first, window[0], now))
            window.append(now)

    def _show(self, text: str) -> None:
        with self._lock:
            self._erase()
            if self._live:
                text = text[: shutil.get_terminal_size().columns - 1]
                self._shown = text
                self._print(text)
            else:
                self._print(text + "\n")

    def _erase(self) -> None:
        if self._shown:
            self._print("\r\x1b[2K")
            self._shown = ""

    def _print(self, text: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)  # paths may be any bytes
        with contextlib.suppress(OSError):  # a job does not end because nobody listens any more
            self._stream.write(text)
            self._stream.flush()
