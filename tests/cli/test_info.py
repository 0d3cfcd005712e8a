"""`nspjax info` as a user meets it."""

import importlib.util
import os
import subprocess
import sys
import types

import orjson
import pytest

import nspjax
from nspjax import _engine
from nspjax.cli.info import ShowInfo, gather, tables
from nspjax.cli.store_info import mount_of


def info(*arguments, cwd=None, columns=200):
    return subprocess.run(
        [sys.executable, "-m", "nspjax", "info", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"COLUMNS": str(columns)},
        check=False,
    )


def told(*arguments):
    ended = info(*arguments, "--json")
    assert (ended.returncode, ended.stderr) == (0, "")
    return orjson.loads(ended.stdout)


def test_without_a_store():
    known = told()
    assert known["versions"]["nspjax"] == nspjax.__version__
    assert known["versions"]["python"] == sys.version.split()[0]
    assert known["versions"]["jax"]
    assert known["versions"]["flax"]
    assert known["engine"]["kernels"] == _engine.available_kernels()
    assert known["engine"]["io_uring"] == _engine.build_info()["uring"]
    assert known["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert 0 < known["machine"]["available_memory_bytes"] <= known["machine"]["memory_bytes"]
    assert known["stores"] == []


def test_a_store_that_was_never_measured(tmp_path):
    (store,) = told("--store", tmp_path)["stores"]
    assert store["kind"] == "file"
    assert store["path"] == str(tmp_path)
    assert store["profile"] is None
    assert store["free_bytes"] > 0
    assert str(tmp_path).startswith(store["mount_point"])
    assert os.listdir(tmp_path) == [], "nothing is left or made"
    text = info("--store", tmp_path).stdout
    assert "--probe measures one" in text
    assert store["file_system"] in text


def test_probe_measures_and_keeps(tmp_path):
    known = told("--store", tmp_path, "--store", f"file:{tmp_path}", "--probe")
    profiles = [store["profile"] for store in known["stores"]]
    if profiles[0]["source"] == "default":
        pytest.skip(profiles[0]["note"])
    assert [profile["source"] for profile in profiles] == ["measured", "measured"]
    assert os.listdir(tmp_path) == ["nspjax.profile"]
    (store,) = told("--store", tmp_path)["stores"]
    assert store["profile"] == _engine.kept_profile(str(tmp_path))
    assert store["o_direct"] is True
    text = info("--store", tmp_path).stdout
    assert f"{store['profile']['depth']} at a time" in text
    assert "(kept)" in text


def test_memory():
    (store,) = told("--store", "memory:")["stores"]
    assert store["kind"] == "memory"
    assert store["path"] is None
    assert "store memory:" in info("--store", "memory:").stdout


def test_no_directory(tmp_path):
    (tmp_path / "file").touch()
    for name, why in [("missing", "does not exist"), ("file", "is no directory")]:
        ended = info("--store", tmp_path / name)
        assert ended.returncode == 2
        assert ended.stdout == ""
        assert ended.stderr.count("\n") == 1
        assert ended.stderr.startswith("error: ")
        assert why in ended.stderr


def test_a_store_in_use(tmp_path):
    store = _engine.Store([str(tmp_path)], 8 << 20)
    try:
        assert told("--store", tmp_path)["stores"][0]["kind"] == "file"
    finally:
        store.close()


def test_tables_keep_all_of_a_long_path(tmp_path):
    """In a narrow terminal it is folded, and what looks like markup is not taken for any."""
    directory = tmp_path / ("[red]" + "x" * 150)
    directory.mkdir()
    text = info("--store", directory, columns=60).stdout
    assert "x" * 150 in text.replace("\n", "").replace(" ", "")
    assert "[red]" in text


def test_cards_that_xrt_lists(monkeypatch):
    """One that cannot be opened does not hide the others."""
    names = types.SimpleNamespace(name="name", bdf="bdf")

    def device(index):
        if index == 1:
            raise RuntimeError("Device or resource busy")
        known = {"name": "xilinx_u2", "bdf": "0000:3d:00.1"}
        return types.SimpleNamespace(get_info=known.__getitem__)

    pyxrt = types.SimpleNamespace(enumerate_devices=lambda: 2, device=device, xrt_info_device=names)
    monkeypatch.setitem(sys.modules, "pyxrt", pyxrt)
    cells = [cell for table in tables(gather(ShowInfo())) for cell in table.columns[1].cells]
    assert "0: xilinx_u2 at 0000:3d:00.1, 1: cannot be opened: Device or resource busy" in map(
        str, cells
    )


MOUNTS = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:26 / /mnt rw - tmpfs tmpfs rw
31 30 259:1 / /mnt/nvme0 rw master:2 - xfs /dev/nvme0n1 rw
32 22 259:2 / /mnt/with\040space rw - btrfs /dev/nvme1n1 rw
33 22 259:3 / /mnt/nvme0 rw - ext4 /dev/nvme2n1 rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/kv", ("/", "ext4")),
        ("/", ("/", "ext4")),
        ("/mnt", ("/mnt", "tmpfs")),
        ("/mnt/nvme0/kv", ("/mnt/nvme0", "ext4")),
        ("/mnt/nvme01", ("/mnt", "tmpfs")),
        ("/mnt/with space/kv", ("/mnt/with space", "btrfs")),
    ],
)
def test_mounts(path, expected):
    assert mount_of(path, MOUNTS) == expected


@pytest.mark.skipif(importlib.util.find_spec("pyxrt") is not None, reason="pyxrt is installed")
def test_cards_without_pyxrt():
    assert told()["cards"] is None, "nobody can tell"
    assert "not known: XRT's pyxrt is not installed" in info().stdout


def test_cards_that_pyxrt_lists(tmp_path, monkeypatch):
    """pyxrt comes with a card's XRT only: a stand-in has the two calls that are made."""
    (tmp_path / "pyxrt.py").write_text(
        """
import enum

class xrt_info_device(enum.Enum):
    name = 0
    bdf = 1

class device:
    def __init__(self, index):
        self.index = index

    def get_info(self, what):
        return {"name": "u2", "bdf": f"0000:{self.index}d:00.1"}[what.name]

def enumerate_devices():
    return 2
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert told()["cards"] == [
        {"index": 0, "name": "u2", "address": "0000:0d:00.1"},
        {"index": 1, "name": "u2", "address": "0000:1d:00.1"},
    ]
    assert "1: u2 at 0000:1d:00.1" in info().stdout


def test_a_card_without_a_kernel():
    refused = info("--store", "xrt:0?xclbin=/no/such&path=/tmp")
    assert refused.returncode == 2
    assert "error: " in refused.stderr
