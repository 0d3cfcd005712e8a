"""What stands in the place of a file of ours, and who may open ours."""

import contextlib
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from prefix_cases import MODEL, filled, opened

from nspjax import _engine
from nspjax.errors import NspjaxError, StoreBusyError, StorePathError
from nspjax.runtime.plain_file import write_plain

MIB = 1 << 20
NOBODY = 65534

# ---- what each file is made by ------------------------------------------------------------------


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

# ---- what is in their place ---------------------------------------------------------------------


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


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_something_else_is_refused(tmp_path, kind, name):
    kind(tmp_path / name)
    before = look(tmp_path)
    with at_once(), pytest.raises(StorePathError, match=KINDS[kind]) as error:
        FILES[name](tmp_path)
    assert str(tmp_path / name) in str(error.value)
    after = look(tmp_path)
    assert {name: after[name] for name in before} == before
    for path in tmp_path.glob("nspjax*"):  # those that were made beside it are closed again
        assert path.name == name or path.stat().st_size == 4096


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_that_is_something_else(tmp_path, kind):
    kind(tmp_path / "prefix")
    with at_once(), pytest.raises(StorePathError, match=KINDS[kind]):
        load(tmp_path)


@pytest.mark.parametrize("name", ["nspjax.kv", "nspjax.weights", "nspjax.x.kv"])
def test_another_name(tmp_path, name):
    """What is written in place is nobody else's, under whatever name."""
    FILES[name](tmp_path)
    os.link(tmp_path / name, tmp_path / "another")
    with pytest.raises(StorePathError, match=r"has 2 names \(hard links\)"):
        FILES[name](tmp_path)
    os.unlink(tmp_path / "another")
    FILES[name](tmp_path)


def test_a_directory_by_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "here").symlink_to(tmp_path / "there")
    open_kv(tmp_path / "here")
    save(tmp_path / "here")
    assert sorted(os.listdir(tmp_path / "there")) == ["nspjax.kv", "prefix"]


# ---- modes --------------------------------------------------------------------------------------


@contextlib.contextmanager
def umask(mask):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize("mask", [0, 0o022, 0o777])
@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(".")])
def test_nobody_else_may_open_it(tmp_path, name, mask):
    made = FILES[name]
    for _ in range(2):
        with umask(mask):
            made(tmp_path)
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    os.chmod(tmp_path / name, 0o666)  # as an older nspjax left it
    made(tmp_path)
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_what_was_open_to_others_is_not_written(tmp_path):
    """Who has it open from then sees nothing of what comes."""
    (tmp_path / "nspjax.kv").touch(0o644)
    with open(tmp_path / "nspjax.kv", "rb") as reader:
        store = _engine.Store([str(tmp_path)], 8 * MIB, pinned_bytes=0)
        store.fill_synthetic(store.create_caches(1, 1, 512, 1, 64, "f32", 16)[0], 512)
        store.flush()
        assert reader.read() == b""
        assert (tmp_path / "nspjax.kv").stat().st_size > 4096
        store.close()


def test_a_stricter_mode_stays(tmp_path):
    save(tmp_path)
    os.chmod(tmp_path / "prefix", 0o400)
    inode = (tmp_path / "prefix").stat().st_ino
    save(tmp_path)
    assert stat.S_IMODE((tmp_path / "prefix").stat().st_mode) == 0o400
    assert (tmp_path / "prefix").stat().st_ino != inode
    load(tmp_path)


def test_a_prefix_is_narrowed_when_it_is_loaded(tmp_path):
    save(tmp_path)
    os.chmod(tmp_path / "prefix", 0o644)
    load(tmp_path)
    assert stat.S_IMODE((tmp_path / "prefix").stat().st_mode) == 0o600


# ---- locks --------------------------------------------------------------------------------------

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


# ---- what is no secret --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [os.mkfifo, unix_socket, device, os.mkdir])
def test_a_trace_is_written_to_files_only(tmp_path, kind):
    kind(tmp_path / "trace")
    with at_once(), opened(tmp_path, 0) as store, pytest.raises(StorePathError, match=KINDS[kind]):
        store.save_trace(tmp_path / "trace")


def test_a_trace_over_another(tmp_path):
    (tmp_path / "trace").write_bytes(b"x" * 100)
    (tmp_path / "link").symlink_to("trace")
    write_plain(tmp_path / "link", b"new")
    assert (tmp_path / "trace").read_bytes() == b"new"
    with pytest.raises(StorePathError, match="no directory"):
        write_plain(tmp_path / "missing" / "trace", b"new")


@pytest.mark.parametrize("kind", [link, dangling, os.mkfifo, os.mkdir, device, of_another])
def test_a_profile_that_is_something_else(tmp_path, kind):
    kind(tmp_path / "nspjax.profile")
    before = look(tmp_path)
    with at_once():
        assert _engine.kept_profile(str(tmp_path)) is None
        profile = _engine.measure_profile(str(tmp_path))
    if profile["source"] == "measured":
        assert KINDS[kind] in profile["note"]
    assert look(tmp_path) == before


# ---- two users ----------------------------------------------------------------------------------

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
