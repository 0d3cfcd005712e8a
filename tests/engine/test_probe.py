"""The measured profile of a directory's drive: kept, checked, and nothing left behind."""

import contextlib
import os
import subprocess
import sys
import tempfile

import pytest

from nspjax import _engine
from nspjax.errors import InvalidArgumentError

# without rates: nobody knows them
DEFAULT = {"block_bytes": 2 << 20, "depth": 16, "read_gb_per_s": None}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A directory with a kept profile, and what was measured."""
    directory = tmp_path_factory.mktemp("drive")
    profile = _engine.probe(str(directory))
    if profile["source"] != "measured":
        pytest.skip(f"this directory cannot be measured: {profile['note']}")
    return directory, profile


def file_of(directory):
    return directory / "nspjax.profile"


def copy_to(directory, content):
    file_of(directory).write_bytes(content)
    return str(directory)


def is_default(profile):
    return profile["source"] == "default" and DEFAULT.items() <= profile.items()


def test_measured(measured):
    directory, profile = measured
    assert profile["block_bytes"] in (1 << 20, 2 << 20, 4 << 20)
    assert profile["depth"] in (4, 8, 16, 32)
    assert profile["read_gb_per_s"] > 0
    assert profile["write_gb_per_s"] > 0
    assert profile["note"] == ""
    assert os.listdir(directory) == ["nspjax.profile"], "the scratch file is gone"


def test_kept_and_reused(measured):
    directory, profile = measured
    before = file_of(directory).stat()
    again = _engine.probe(str(directory))
    assert again["source"] == "kept"
    assert again == _engine.kept_profile(str(directory))
    assert file_of(directory).stat().st_mtime_ns == before.st_mtime_ns
    assert again["block_bytes"] == profile["block_bytes"]
    assert again["depth"] == profile["depth"]
    assert again["read_gb_per_s"] == pytest.approx(profile["read_gb_per_s"], abs=0.001)


def test_measured_again_when_asked(measured):
    directory, _ = measured
    before = file_of(directory).stat()
    assert _engine.measure_profile(str(directory))["source"] == "measured"
    assert file_of(directory).stat().st_mtime_ns != before.st_mtime_ns
    assert _engine.kept_profile(str(directory))["source"] == "kept"


def test_damaged_or_foreign_is_none(measured, tmp_path):
    good = file_of(measured[0]).read_bytes()
    assert _engine.kept_profile(copy_to(tmp_path, good)) is not None, "of the same file system"
    flipped = [good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :] for i in range(len(good))]
    others = [b"", good[:-1], good + b"\n", good * 2, b"{}", b"\0" * 4096, os.urandom(10_000)]
    other_file_system = good.replace(b"file_system ", b"file_system 1")
    for content in [*flipped, *others, other_file_system]:
        assert _engine.kept_profile(copy_to(tmp_path, content)) is None, content


def test_damaged_is_measured_again(measured, tmp_path):
    good = file_of(measured[0]).read_bytes()
    directory = copy_to(tmp_path, good.replace(b"depth", b"Depth"))
    assert _engine.probe(directory)["source"] == "measured"
    assert _engine.probe(directory)["source"] == "kept"


def test_a_profile_is_of_its_io(tmp_path):
    if _engine.probe(str(tmp_path), "pread")["source"] != "measured":
        pytest.skip("this directory cannot be measured")
    assert _engine.kept_profile(str(tmp_path), "pread") is not None
    with contextlib.suppress(InvalidArgumentError):  # no io_uring here
        assert _engine.kept_profile(str(tmp_path), "uring") is None
    with pytest.raises(InvalidArgumentError, match="aio"):
        _engine.probe(str(tmp_path), "aio")


def test_a_profile_that_cannot_be_read_or_replaced(measured, tmp_path):
    (tmp_path / "nspjax.profile").mkdir()
    assert _engine.kept_profile(str(tmp_path)) is None
    profile = _engine.probe(str(tmp_path))
    assert profile["source"] == "measured"
    assert "could not be kept" in profile["note"]
    assert os.listdir(tmp_path) == ["nspjax.profile"]


def test_missing_directory(tmp_path):
    profile = _engine.probe(str(tmp_path / "missing"))
    assert is_default(profile)
    assert "No such file" in profile["note"]


def test_unwritable_directory():
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o555)
        user = os.geteuid()
        if user == 0:  # root may write anywhere
            os.seteuid(65534)
        try:
            profile = _engine.probe(path)
        finally:
            os.seteuid(user)
        assert is_default(profile)
        assert "Permission denied" in profile["note"]
        assert os.listdir(path) == []


FULL = """
import os, resource, sys
from nspjax import _engine
resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 20, 16 << 20))
profile = _engine.probe(sys.argv[1], "pread")  # io_uring takes no notice of the limit
print(profile["source"], profile["note"])
print(os.listdir(sys.argv[1]))
"""


def test_writes_that_fail_give_the_default(measured, tmp_path):
    """A limit on the size of files stands for a drive that gets full on the way."""
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    verdict, left = ended.stdout.splitlines()
    assert verdict.startswith("default write of")
    assert left == "[]"


def mounted(directory, size):
    ended = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(directory)],
        capture_output=True,
        check=False,
    )
    return ended.returncode == 0


def test_a_file_system_with_little_space(tmp_path):
    if os.geteuid() != 0 or not mounted(tmp_path, "32m"):
        pytest.skip("needs a file system of its own")
    try:
        profile = _engine.probe(str(tmp_path))
        assert is_default(profile)
        assert "free" in profile["note"] or "O_DIRECT" in profile["note"]
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
