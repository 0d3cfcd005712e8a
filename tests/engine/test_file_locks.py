"""Files of ours that another process has open or locked."""

import contextlib
import fcntl
import os
import subprocess
import sys

import pytest
from files_in_the_way import MIB, open_kv

from nspjax import _engine
from nspjax.errors import NspjaxError, StoreBusyError

LOCKER = """
import fcntl, sys
with open(sys.argv[1], "rb") as file:
    fcntl.flock(file, int(sys.argv[2]))
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def locked_by_another(path, how):
    with subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(path), str(how)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == b"locked\n"
        yield process.pid
        process.kill()


@pytest.mark.parametrize("how", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_a_lock_is_blamed_on_who_has_it(tmp_path, how):
    """The superblock's process has ended; another one has the lock."""
    subprocess.run(
        [sys.executable, "-c", "import sys; from nspjax import _engine\n"
         "_engine.Store([sys.argv[1]], 8 << 20)", str(tmp_path)], check=True,
    )  # fmt: skip
    with locked_by_another(tmp_path / "nspjax.kv", how) as pid:
        with pytest.raises(StoreBusyError, match="another process") as error:
            open_kv(tmp_path)
        named = [word for word in str(error.value).split() if word.startswith(f"{pid})")]
        assert named or "pid" not in str(error.value)
    open_kv(tmp_path)


def test_a_reader_of_an_old_file_does_not_block(tmp_path):
    open_kv(tmp_path)
    os.chmod(tmp_path / "nspjax.kv", 0o644)
    with locked_by_another(tmp_path / "nspjax.kv", fcntl.LOCK_SH):
        open_kv(tmp_path)
        store = _engine.Store([str(tmp_path)], 8 * MIB)
        with pytest.raises(StoreBusyError, match="this process already"):
            open_kv(tmp_path)
        store.close()


def test_an_old_file_that_is_open(tmp_path):
    """Another nspjax that made it with wide modes has it: it is not taken from it."""
    store = _engine.Store([str(tmp_path)], 8 * MIB)
    os.chmod(tmp_path / "nspjax.kv", 0o644)
    with pytest.raises(StoreBusyError, match="this process already"):
        open_kv(tmp_path)
    store.close()


def test_a_wide_file_of_somebody_is_left(tmp_path):
    (tmp_path / "nspjax.kv").write_bytes(b"a letter")
    os.chmod(tmp_path / "nspjax.kv", 0o644)
    with pytest.raises(NspjaxError, match="not an nspjax store"):
        open_kv(tmp_path)
    assert (tmp_path / "nspjax.kv").read_bytes() == b"a letter"
