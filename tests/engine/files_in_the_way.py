"""Files of ours, what makes each, and what may stand in its place."""

import contextlib
import os
import signal
import socket
import stat

import numpy as np
import pytest
from prefix_cases import MODEL, filled, opened

from nspjax import _engine

MIB = 1 << 20
NOBODY = 65534


def open_kv(directory):
    _engine.Store([str(directory)], 8 * MIB).close()


def put_weight(directory):
    store = _engine.Store([str(directory)], 8 * MIB)
    try:
        store.put_weight(np.zeros(1000, np.uint8))
    finally:
        store.close()


def make_x_cache(directory):
    store = _engine.Store([str(directory)], 32 * MIB, pinned_bytes=0)
    try:
        (cache,) = store.create_caches(1, 1, 64, 2, 64, "f32")
        store.x_cache(cache, 1, 64)
    finally:
        store.close()


def save(directory, name="prefix"):
    with opened(directory / "", 0) as store:
        store.save_prefix(directory / name, filled(store, (40, 0, 0)), 0, model=MODEL)


def load(directory):
    with opened(directory / "", 0) as store:
        store.load_prefix(directory / "prefix", filled(store, (40, 0, 0)), 1, model=MODEL)


FILES = {
    "nspjax.kv": open_kv,
    "nspjax.weights": put_weight,
    "nspjax.x.kv": make_x_cache,
    "prefix": save,
    ".prefix.nspjax-saving": save,
}


def link(path):
    victim = path.with_name("victim")
    victim.write_bytes(b"precious")
    path.symlink_to(victim)


def dangling(path):
    path.symlink_to(path.with_name("nothing"))


def loop(path):
    path.symlink_to(path)


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as made, contextlib.chdir(path.parent):
        made.bind(path.name)


def device(path):
    if os.geteuid() != 0:
        pytest.skip("only root makes device nodes")
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))


def of_another(path):
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    path.touch(0o666)
    os.chown(path, NOBODY, NOBODY)


KINDS = {
    link: "symbolic link",
    dangling: "symbolic link",
    loop: "symbolic link",
    os.mkfifo: "FIFO",
    unix_socket: "socket",
    device: "device node",
    os.mkdir: "directory",
    of_another: f"belongs to user {NOBODY}",
}


@contextlib.contextmanager
def at_once():
    """What hangs is a failure."""

    def late(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def look(directory):
    """What is there: kinds, owners and contents."""
    found = {}
    for path in sorted(directory.iterdir()):
        info = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(info.st_mode) else None
        found[path.name] = (stat.S_IFMT(info.st_mode), info.st_uid, info.st_ino, content)
    return found
