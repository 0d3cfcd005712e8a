"""Ctrl-C and SIGTERM on a running job."""

import signal
import time
from pathlib import Path

import pytest
from jobs import HERE, Job, request_line, results

from nspjax.cli.interrupt import Interrupted, raise_on_signals

STUB = [str(HERE / "stub_main.py")]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(request_line(str(i), prompt="x") for i in range(20)))
    return path


def job(source: Path, *options: str, seconds: float) -> Job:
    return Job(
        STUB,
        source,
        source.parent / "out.jsonl",
        "--model",
        str(source.parent),
        *options,
        env={"NSPJAX_STUB_SECONDS": str(seconds)},
    )


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_keeps_what_is_finished(source: Path, signum: signal.Signals, code: int):
    stopped = job(source, seconds=0.05)
    assert stopped.wait_for_bytes(1)
    stopped.process.send_signal(signum)
    assert stopped.end() == code
    assert f"stopped by {signum.name}" in stopped.log()
    assert "--resume" in stopped.log()
    assert "Traceback" not in stopped.log()
    assert 0 < len(results(stopped.output)) < 20
    assert job(source, "--resume", seconds=0).end() == 0
    assert len(results(stopped.output)) == 20


def test_the_second_signal_ends_a_step_that_does_not_return(source: Path):
    stuck = Job(["-c", STUCK], source, source.parent / "out.jsonl")
    deadline = time.monotonic() + 60
    while "stuck" not in stuck.log():
        assert stuck.process.poll() is None, stuck.log()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stuck.process.send_signal(signal.SIGINT)
    while "stopping after the running step" not in stuck.log():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert stuck.process.poll() is None
    stuck.process.send_signal(signal.SIGINT)
    assert stuck.end(10) == 130


STUCK = """
import ctypes, sys
from nspjax.cli.interrupt import raise_on_signals
say = lambda text: print(text, file=sys.stderr, flush=True)
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
with raise_on_signals(say):
    say("stuck")
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)  # for ever, and no signal ends it
"""


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    said = []
    with pytest.raises(Interrupted, match="SIGTERM"), raise_on_signals(said.append):  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        time.sleep(5)
    assert signal.getsignal(signal.SIGTERM) is before
    assert signal.set_wakeup_fd(-1) == -1
    assert len(said) == 1
