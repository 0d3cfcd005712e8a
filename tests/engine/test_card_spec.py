"""How a store names cards, and what is said where there are none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nspjax import Store, _engine
from nspjax.errors import AcceleratorError, InvalidArgumentError

FULL = "xrt:{}?xclbin=/x/a.xclbin&path=/mnt/ssd{{card}}"


@pytest.fixture(autouse=True)
def _no_defaults(monkeypatch):
    for name in ("NSPJAX_XCLBIN", "NSPJAX_XRT_PATH"):
        monkeypatch.delenv(name, raising=False)


def test_each_card_is_a_device():
    assert _engine.expand_cards(["memory:", FULL.format("0,3") + "&timeout_s=2.5", "/a"]) == [
        "memory:",
        "xrt:0?xclbin=/x/a.xclbin&path=/mnt/ssd0&timeout_s=2.5",
        "xrt:3?xclbin=/x/a.xclbin&path=/mnt/ssd3&timeout_s=2.5",
        "/a",
    ]


def test_the_environment_has_what_is_left_out(monkeypatch):
    monkeypatch.setenv("NSPJAX_XCLBIN", "/e/b.xclbin")
    monkeypatch.setenv("NSPJAX_XRT_PATH", "/e/{card}/kv")
    assert _engine.expand_cards(["xrt:1"]) == ["xrt:1?xclbin=/e/b.xclbin&path=/e/1/kv"]
    assert _engine.expand_cards(["xrt:1?path=/f"]) == ["xrt:1?xclbin=/e/b.xclbin&path=/f"]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("xrt:", 'names a card ""'),
        ("xrt:a", 'names a card "a"'),
        ("xrt:-1", 'names a card "-1"'),
        ("xrt:0,", 'names a card ""'),
        ("xrt:0", "no xclbin: write xrt:0\\?xclbin=..., or set NSPJAX_XCLBIN"),
        ("xrt:0?xclbin=/a", "no path: .* set NSPJAX_XRT_PATH"),
        ("xrt:0?xclbin=/a&path=", "no path"),
        ("xrt:0?speed=9", 'has "speed=9": a card\'s options are'),
        ("xrt:0?xclbin", 'has "xclbin": a card\'s options are'),
        (FULL.format("0,1,0"), "card 0 twice"),
        ("xrt:0,1?xclbin=/a&path=/b", "2 cards and one path, /b: .* write {card}"),
        (FULL.format("0") + "&timeout_s=0", "timeout_s=0: write seconds"),
        (FULL.format("0") + "&timeout_s=soon", "timeout_s=soon"),
    ],
)
def test_a_bad_spec_is_refused(spec, says):
    with pytest.raises(InvalidArgumentError, match=says):
        Store(spec)


def test_a_card_twice_in_two_specs():
    with pytest.raises(InvalidArgumentError, match="card 1 twice"):
        _engine.expand_cards([FULL.format("0,1"), FULL.format("1")])


@pytest.mark.parametrize("spec", ["xrt:0", "xrt:0?xclbin=/a", FULL.format("0,1")])
def test_what_is_not_one_card(spec):
    with pytest.raises(InvalidArgumentError, match="not one card with its xclbin and path"):
        _engine.card_info(spec)


def card_info_in(folder: Path) -> str:
    """What a copy of the engine says of a card, with the files of `folder` beside it."""
    copy = shutil.copy(_engine.__file__, folder)
    program = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("nspjax._engine", {copy!r})
engine = importlib.util.module_from_spec(spec)
spec.loader.exec_module(engine)
engine.card_info("xrt:0?xclbin=/a&path=/b")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1, "Python's own way to end with an exception"
    return ended.stderr.splitlines()[-1]


def test_without_the_plugin(tmp_path):
    said = card_info_in(tmp_path)
    assert "AcceleratorError: this nspjax cannot use cards: it was built without XRT" in said
    assert "apt install libxrt-dev" in said


def test_a_plugin_that_cannot_be_loaded(tmp_path):
    (tmp_path / "libnspjax_xrt.so").write_text("no library, so no XRT")
    said = card_info_in(tmp_path)
    assert "AcceleratorError: XRT cannot be loaded" in said
    assert "invalid ELF header" in said or "file too short" in said


@pytest.mark.skipif(not _engine.build_info()["xrt"], reason="built without XRT (libxrt-dev)")
class TestXclbin:
    def test_missing(self, tmp_path):
        with pytest.raises(AcceleratorError, match=r"a\.xclbin cannot be read: No such file"):
            Store(f"xrt:0?xclbin={tmp_path}/a.xclbin&path={tmp_path}")

    def test_something_else(self, tmp_path):
        with pytest.raises(AcceleratorError, match="is no sound xclbin"):
            Store(f"xrt:0?xclbin={sys.executable}&path={tmp_path}")


@pytest.mark.skipif(not _engine.build_info()["xrt"], reason="nspjax was built without XRT")
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, None])
def test_an_xclbin_that_is_no_file(tmp_path, make):
    """Refused at once: a FIFO is not waited for."""
    xclbin = tmp_path / "a\udce9.xclbin"
    if make is not None:
        make(xclbin)
    with pytest.raises(AcceleratorError, match=r"a\\xe9\.xclbin (is no file|cannot be read)"):
        _engine.card_info(f"xrt:0?xclbin={xclbin}&path={tmp_path}")
