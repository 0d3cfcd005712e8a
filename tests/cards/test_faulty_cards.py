"""Cards that are not there, not ready, or fail in the middle: each is an error that says so."""

import json
import os
import subprocess
import sys

import pytest
from on_cards import HERE, run_on_cards

from nspjax.xrt_emulator import EmulatedCards

SOON_S = 10


def error_of(store, *arguments, options=(), directory):
    said = run_on_cards(
        ["faulty_child.py", store, *arguments],
        cards=2,
        options=options,
        directory=directory,
        timeout_s=60,
    )
    error = json.loads(said.splitlines()[-1])
    assert error["class"] == "AcceleratorError"
    return error


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("xclbin=truncated", "is no sound xclbin"),
        ("xclbin=kernel-name", "has no kernel nspjax_attention, but: "),
        ("xclbin=arguments", "they should be kv, operands, results (8 bytes each)"),
        ("no-p2p", "xbutil configure --p2p enable"),
    ],
)
def test_refused_when_the_store_is_opened(fault, says, tmp_path):
    error = error_of("xrt:0,1", options=["--fault", fault], directory=tmp_path)
    assert says in error["text"]
    assert error["seconds"] is None


def test_no_such_card(tmp_path):
    error = error_of(f"xrt:7?path={tmp_path}", directory=tmp_path)
    assert "there is no card 7" in error["text"]
    assert "nspjax emulate-xrt" in error["text"]


def test_no_card_at_all(tmp_path):
    """The real XRT, without emulation."""
    xclbin = tmp_path / "good.xclbin"
    xclbin.write_bytes(EmulatedCards().xclbin(b"no bitstream"))
    ended = subprocess.run(
        [sys.executable, HERE / "faulty_child.py", f"xrt:0?xclbin={xclbin}&path={tmp_path}"],
        capture_output=True,
        text=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if name != "XCL_EMULATION_MODE"},
        check=True,
    )
    error = json.loads(ended.stdout.splitlines()[-1])
    assert error["class"] == "AcceleratorError"
    assert "there is no card 0 that XRT can open" in error["text"]


@pytest.mark.parametrize("mode", [[], ["--strict-sync"]], ids=["zero-copy", "strict"])
@pytest.mark.parametrize("fault", ["die:after=5:card=1", "die-in-run:after=5:card=0"])
def test_a_device_process_that_ends(fault, mode, tmp_path):
    error = error_of("xrt:0,1", options=["--fault", fault, *mode], directory=tmp_path)
    assert f"xrt:{fault[-1]} ended run" in error["text"]
    assert "without its results" in error["text"]
    assert error["seconds"] < SOON_S


def test_a_device_process_that_is_killed(tmp_path):
    error = error_of("xrt:0,1", "kill", directory=tmp_path)
    assert "without its results" in error["text"]
    assert error["seconds"] < SOON_S


def test_a_run_that_never_ends(tmp_path):
    error = error_of(
        "xrt:0,1?timeout_s=1.5", options=["--fault", "hang:after=4:card=1"], directory=tmp_path
    )
    assert "card 1 did not run its kernel: the run did not end within 1500 ms" in error["text"]
    assert 1.4 < error["seconds"] < SOON_S
