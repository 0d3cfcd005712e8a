"""Two users of one machine: neither reads what the other's store has."""

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from files_in_the_way import FILES, MIB, at_once, look, save

from nspjax import _engine
from nspjax.errors import StorePathError

STRANGER = """
import fcntl, os, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
done = []
def attempt(name, fn):
    try:
        fn()
        done.append(name)
    except OSError:
        pass
folder = sys.argv[1]
for name in sys.argv[2:]:
    path = os.path.join(folder, name)
    attempt(f"read {name}", lambda: open(path, "rb").read(10))
    attempt(f"write {name}", lambda: open(path, "r+b"))
    attempt(f"lock {name}", lambda: fcntl.flock(os.open(path, os.O_RDONLY), fcntl.LOCK_SH))
    attempt(f"copy {name}", lambda: os.link(path, path + ".mine"))
print(*done, sep="\\n")
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")


def as_stranger(code, *arguments):
    ended = subprocess.run(
        [sys.executable, "-I", "-c", code, *map(str, arguments)],
        capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    return ended.stdout.split("\n")[:-1]


@contextlib.contextmanager
def shared(mode):
    """A directory that others reach."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, mode)
        yield Path(path)


@needs_root
@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o755])
def test_another_user_reads_nothing(mode):
    """In a directory that is sticky as /tmp is, in one that is not, and in root's own."""
    names = ["nspjax.kv", "nspjax.weights", "nspjax.x.kv", "prefix"]
    with shared(mode) as directory:
        store = _engine.Store([str(directory)], 32 * MIB, pinned_bytes=0)
        store.put_weight(np.zeros(1000, np.uint8))
        (cache,) = store.create_caches(1, 1, 64, 2, 64, "f32")
        store.x_cache(cache, 1, 64)
        save(directory)
        (directory / "open").touch(0o644)  # to see that the stranger comes as far as that
        done = as_stranger(STRANGER, directory, *names, "open")
        may_link = Path("/proc/sys/fs/protected_hardlinks").read_text().strip() == "0"
        assert [what for what in done if not (may_link and what.startswith("copy"))] == [
            "read open",
            "lock open",
        ]
        store.close()


IN_THE_WAY = """
import os, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
how, folder, *names = sys.argv[1:]
for name in names:
    path = os.path.join(folder, name)
    if how == "file":
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)); os.chmod(path, 0o666)
    elif how == "link":
        os.symlink(os.path.join(folder, "victim"), path)
    else:
        os.mkfifo(path, 0o666); os.chmod(path, 0o666)
"""


@needs_root
@pytest.mark.parametrize("how", ["file", "link", "fifo"])
@pytest.mark.parametrize("mode", [0o1777, 0o777])
def test_another_user_is_first(mode, how):
    """Nothing of theirs is written to, and nothing is written where a link of theirs leads."""
    for name, made in FILES.items():
        with shared(mode) as directory:
            (directory / "victim").write_bytes(b"root's")
            as_stranger(IN_THE_WAY, how, directory, name)
            before = look(directory)
            with at_once(), pytest.raises(StorePathError, match=name):
                made(directory)
            after = look(directory)
            assert {name: after[name] for name in before} == before
