"""nspjax emulate-xrt: the command's code is passed on, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from xrt_probe import Probe

from nspjax.cli.emulate_xrt import EmulateXrt, execute
from nspjax.xrt_emulator import installation, run_directory

pytestmark = pytest.mark.usefixtures("emulator")


def emulate(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "nspjax", "emulate-xrt", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(emulate(*arguments), capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)]
)
def test_the_commands_exit_code(tmp_path, script, code):
    done = run("--dir", tmp_path, "--", "sh", "-c", script)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
    assert not list(tmp_path.iterdir())


def test_what_the_command_sees(tmp_path):
    script = (
        "import glob, json, os; path = os.environ['NSPJAX_XRT_PATH'];"
        "print(json.dumps([dict(os.environ), [os.path.isdir(path.format(card=i)) for i in "
        "range(4)], os.getsid(0) == os.getpid()]))"
    )
    done = run("--dir", tmp_path, "--cards", 3, "--strict-sync", sys.executable, "-c", script)
    variables, are_directories, own_session = json.loads(done.stdout)
    assert own_session
    assert are_directories == [True, True, True, False]
    assert variables["XCL_EMULATION_MODE"] == "sw_emu"
    assert variables["NSPJAX_XRT_EMULATOR_STRICT_SYNC"] == "1"
    assert variables["NSPJAX_XCLBIN"].startswith(str(tmp_path))
    assert "NSPJAX_XRT_EMULATOR_LOG" not in variables
    assert variables["USER" if "USER" in os.environ else "HOME"] == os.environ.get(
        "USER", os.environ.get("HOME")
    )
    assert not list(tmp_path.iterdir())


def test_the_attention_kernel_is_on_the_cards(probe: Probe, tmp_path):
    log = tmp_path / "log"
    done = run("--compute-units", 2, "--log", log, "--", probe.host, "open", "nspjax_attention", 0)
    assert (done.returncode, done.stderr) == (0, "")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    (load,) = (event for event in events if event["event"] == "load")
    assert load["kernel"] == "nspjax_attention"
    assert list(load["compute_units"]) == ["nspjax_attention_1", "nspjax_attention_2"]
    assert events[-1]["event"] == "exit"


@pytest.fixture
def holding(probe: Probe, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The command, running a host that has a card open."""
    arguments = ("--dir", tmp_path, "--", probe.host, "hold", "nspjax_attention")
    process = subprocess.Popen(emulate(*arguments), stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_on(holding, tmp_path, signum):
    (directory,) = tmp_path.glob("nspjax-xrt-*")
    assert len(run_directory.device_processes(directory)) == 1
    holding.send_signal(signum)
    assert holding.wait(timeout=10) == 128 + signum
    assert not run_directory.device_processes(directory)
    assert not list(tmp_path.iterdir())


def test_the_host_is_killed(holding, tmp_path):
    (directory,) = tmp_path.glob("nspjax-xrt-*")
    (device,) = run_directory.device_processes(directory)
    host = int(Path(f"/proc/{device}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(host, signal.SIGKILL)
    assert holding.wait(timeout=10) == 137
    assert not run_directory.device_processes(directory)
    assert not list(tmp_path.iterdir())


def test_a_host_in_the_background(probe: Probe, tmp_path):
    """It loses its card when the command ends; it itself is the command's, not ours."""
    pid_file = tmp_path / "pid"
    script = (
        f"{probe.host} hold nspjax_attention >{tmp_path}/out 2>&1 & echo $! >{pid_file};"
        f"until grep -q open {tmp_path}/out; do sleep 0.05; done"
    )
    runs = tmp_path / "runs"
    runs.mkdir()
    assert run("--dir", runs, "--", "sh", "-c", script).returncode == 0
    os.kill(int(pid_file.read_text()), signal.SIGKILL)  # it was there still
    assert not list(runs.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"command": ("/no/such/program",)}, "cannot run /no/such/program"),
        ({"cards": 0}, "cards: 1 to 64 can be emulated, got 0"),
        ({"compute_units": 17}, "compute units: 1 to 16 can be emulated, got 17"),
        ({"faults": ("burn",)}, "'burn' is no fault: there are die"),
        ({"faults": ("die:card=2",), "cards": 2}, "for card 2, of 2"),
        ({"faults": ("hang:after=0",)}, "counted from 1"),
        ({"faults": ("hang:when=3",)}, "'when=3' in fault"),
        ({"faults": ("die:after=1:after=2",)}, "each once"),
        ({"faults": ("xclbin=burnt",)}, "is no fault"),
        ({"log": "/no/such/directory/log"}, "no such directory"),
        ({"directory": "/no/such/directory"}, "give another --dir"),
    ],
)
def test_bad_usage(capsys, options, said):
    assert execute(EmulateXrt(**{"command": ("true",), **options})) == 2
    assert said in capsys.readouterr().err


def test_no_xrt(capsys, monkeypatch):
    monkeypatch.setattr(installation, "_LIBRARY_DIRECTORIES", ("/no/such/directory",))
    assert execute(EmulateXrt(("true",))) == 2
    assert "apt-get install libxrt-dev" in capsys.readouterr().err


def test_another_processor(capsys, monkeypatch):
    monkeypatch.setattr(installation.platform, "machine", lambda: "aarch64")
    assert execute(EmulateXrt(("true",))) == 2
    assert "x86-64 Linux, this is aarch64" in capsys.readouterr().err


def test_not_built(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(installation, "binary_directory", lambda: tmp_path)
    assert execute(EmulateXrt(("true",))) == 2
    assert "built without its emulator" in capsys.readouterr().err


def test_signals_while_the_command_starts(tmp_path):
    """A signal at any moment ends it, and leaves nothing."""
    for delay_s in (0.05, 0.15, 0.25, 0.3, 0.35):
        process = subprocess.Popen(
            emulate("--dir", tmp_path, "--", "sleep", "20"), stderr=subprocess.PIPE
        )
        time.sleep(delay_s)
        process.send_signal(signal.SIGTERM)
        with process:
            assert process.wait(timeout=10) in (143, -15)
        assert not list(tmp_path.iterdir()), delay_s
