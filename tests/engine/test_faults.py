"""Devices that fail: nothing hangs, aborts or is silently wrong, and the store goes on."""

import errno
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from engine_oracle import append, fill, int32, normal

from nspjax.errors import InvalidArgumentError, StorageIOError, StoreFullError

HEADS, D, TOKENS = 2, 64, 640


def contents(rows, seed=0):
    rng = np.random.default_rng(seed)
    return [normal(rng, (rows, TOKENS, HEADS, D)) for _ in "kv"]


def attend(store, cache, version, rows, length=TOKENS):
    n = len(rows)
    q = np.ones((n, 1, HEADS, D), np.float32)
    return store.attend(
        cache, version, q, int32(rows), int32([length - 1] * n), int32([length] * n), 0.1
    )


@pytest.mark.parametrize("io", ["uring", "pread"])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_read_error_fails_one_call(open_store, io, after):
    store = open_store(1, io=io, fault=f"read:eio:after={after}", host_memory=1 << 20)
    (cache,) = store.create_caches(1, 3, TOKENS, HEADS, D, "f32", 16)
    k, v = contents(3)
    version = fill(store, cache, k, v, [TOKENS] * 3)
    with pytest.raises(
        StorageIOError, match=r"read of \d+ bytes at offset \d+ of .*nspjax.kv.*Input/output error"
    ):
        attend(store, cache, version, [0, 1, 2])
    out, _ = attend(store, cache, version, [0, 1, 2])  # the fault is over, the handle still good
    memory = open_store(0, host_memory=1 << 20)
    (other,) = memory.create_caches(1, 3, TOKENS, HEADS, D, "f32", 16)
    expected, _ = attend(memory, other, fill(memory, other, k, v, [TOKENS] * 3), [0, 1, 2])
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("kind", ["eio", "enospc"])
@pytest.mark.parametrize("n_directories", [1, 2])
def test_a_write_error_changes_nothing(open_store, kind, n_directories):
    store = open_store(n_directories, fault=f"write:{kind}:after=2", host_memory=1 << 20)
    (cache,) = store.create_caches(1, 2, 2 * TOKENS, HEADS, D, "f32", 16)
    k, v = contents(2)
    version = append(store, cache, 0, k[:, :20], v[:, :20], [0, 1], [0, 0], [20, 5])
    error = StoreFullError if kind == "enospc" else StorageIOError
    message = "No space left" if kind == "enospc" else "Input/output"
    with pytest.raises(error, match=rf"write of \d+ bytes at offset \d+ of .*: {message}"):
        append(store, cache, version, k, v, [0, 1], [20, 5], [TOKENS, TOKENS])
    assert store.lengths(cache) == [20, 5]
    assert store.version(cache) == version
    for row, n in [(0, 20), (1, 5)]:
        np.testing.assert_array_equal(store.read(cache, row, 0, n)[0], k[row, :n])
    version = append(store, cache, version, k, v, [0, 1], [20, 5], [TOKENS, TOKENS])
    np.testing.assert_array_equal(store.read(cache, 0, 20, 20 + TOKENS)[1], v[0])


def test_a_write_error_after_a_cut(open_store):
    """The rows are then cut back, as the call was to do first, and consistent."""
    store = open_store(1, fault="write:eio:after=1", host_memory=1 << 20)
    (cache,) = store.create_caches(1, 1, 2 * TOKENS, HEADS, D, "f32", 16)
    k, v = contents(1)
    version = append(store, cache, 0, k[:, :32], v[:, :32], [0], [0], [32])
    store.flush()
    assert store.stats()["n_writes"] == 1
    with pytest.raises(StorageIOError):
        append(store, cache, version, k[:, ::-1].copy(), v, [0], [20], [TOKENS])
    assert store.lengths(cache) == [20]
    np.testing.assert_array_equal(store.read(cache, 0, 0, 20)[0], k[0, :20])
    with pytest.raises(InvalidArgumentError, match="has 20 tokens"):
        attend(store, cache, version, [0])


@pytest.mark.parametrize("io", ["uring", "pread"])
def test_a_write_that_fails_behind_the_append(open_store, io):
    """It is tried again; until it succeeds every append and flush says so, and nothing is lost."""
    store = open_store(1, io=io, fault="write:eio:times=3")
    (cache,) = store.create_caches(1, 2, TOKENS, HEADS, D, "f32", 16)
    k, v = contents(2)
    version = append(store, cache, 0, k[:, :16], v[:, :16], [0, 1], [0, 0], [16, 0])
    out, _ = attend(store, cache, version, [0], 16)
    for call in (
        store.flush,
        lambda: append(store, cache, version, k, v, [0, 1], [16, 0], [16, 8]),
    ):
        with pytest.raises(StorageIOError, match=r"write of \d+ bytes at offset 4096 of .*kv"):
            call()
    again, _ = attend(store, cache, version, [0], 16)
    np.testing.assert_array_equal(out, again)
    version = append(store, cache, version, k[:, 16:], v[:, 16:], [0, 1], [16, 0], [16, 8])
    store.flush()
    assert store.stats()["n_write_retries"] == 3
    np.testing.assert_array_equal(store.read(cache, 0, 0, 32)[1], v[0, :32])


def test_a_failed_read_back_changes_nothing(open_store):
    """A cut in the middle of a spilled tile reads it: if that fails, the row is as it was."""
    store = open_store(1, fault="read:eio")
    (cache,) = store.create_caches(1, 1, 2 * TOKENS, HEADS, D, "f32", 16)
    k, v = contents(1)
    version = append(store, cache, 0, k, v, [0], [0], [TOKENS])
    store.flush()  # what is not on the device yet is not read from it
    with pytest.raises(StorageIOError):
        append(store, cache, version, k[:, :1], v[:, :1], [0], [100], [1])
    assert store.lengths(cache) == [TOKENS]
    append(store, cache, version, k[:, :1], v[:, :1], [0], [100], [1])
    np.testing.assert_array_equal(store.read(cache, 0, 90, 100)[0], k[0, 90:100])


@pytest.mark.parametrize("io", ["uring", "pread"])
def test_a_file_cut_by_somebody_else(open_store, io):
    store = open_store(1, io=io)
    (cache,) = store.create_caches(1, 1, TOKENS, HEADS, D, "f32", 16)
    version = fill(store, cache, *contents(1), [TOKENS])
    store.flush()
    os.truncate(store.devices()[0]["path"], 100_000)
    with pytest.raises(StorageIOError, match=r"read of .* at offset \d+ of .*: the file ends"):
        attend(store, cache, version, [0])


# ---- real file systems ---------------------------------------------------------------------------


def in_own_mounts(script: str) -> str:
    """Runs Python in a mount namespace of its own; skips where that is not allowed."""
    code = textwrap.dedent("""
        import subprocess, sys, tempfile
        import numpy as np
        from nspjax import _engine, errors
        def mount(kind, options="defaults"):
            path = tempfile.mkdtemp()
            subprocess.run(["mount", "-t", kind, "-o", options, kind, path], check=True)
            return path
    """) + textwrap.dedent(script)
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", code]
    try:
        allowed = subprocess.run([*command[:4], "mount", "-t", "tmpfs", "t", "/mnt"], check=False)
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if allowed.returncode != 0:
        pytest.skip("mount namespaces are not allowed here")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_system_without_direct_io():
    """ramfs has no O_DIRECT: a warning, and the page cache."""
    out = in_own_mounts("""
        path = mount("ramfs")
        store = _engine.Store([path], 4 << 20, pinned_bytes=0)
        print("warning:", *store.warnings())
        print("direct:", store.devices()[0]["direct"])
        cache, = store.create_caches(1, 1, 1024, 2, 64, "bf16", 16)
        k = np.arange(1024 * 2 * 64, dtype=np.uint16).reshape(1, 1024, 2, 64)
        one = np.array([0], np.int32)
        store.append(cache, 0, k, k, one, one, np.array([1024], np.int32))
        print("same:", (store.read(cache, 0, 0, 1024)[0] == k[0]).all())
        store.drop_cache(cache)
        store.close()
    """)
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    assert "no O_DIRECT" in lines["warning"]
    assert "cannot reserve room" in lines["warning"]
    assert lines["direct"] == "False"
    assert lines["same"] == "True"


def test_a_read_only_file_system():
    out = in_own_mounts("""
        path = mount("tmpfs", "ro")
        try:
            _engine.Store([path], 4 << 20, pinned_bytes=0)
        except errors.StorePathError as error:
            print(error)
    """)
    assert "Read-only file system" in out
    assert "may write to" in out


def test_the_file_size_limit(tmp_path):
    """EFBIG, as with `ulimit -f`, in the second of two layers: an error that names the file, and
    no layer is made."""
    code = f"""
import resource, signal
from nspjax import _engine, errors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
store = _engine.Store([{str(tmp_path)!r}], 4 << 20)
try:
    store.create_caches(2, 1, 1024, 2, 64, "bf16", 16)
except errors.StorageIOError as error:
    print(error)
print(store.devices()[0]["reserved_bytes"])
store.create_caches(1, 1, 1024, 2, 64, "bf16", 16)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "nspjax.kv" in done.stdout
    assert os.strerror(errno.EFBIG) in done.stdout
    assert done.stdout.splitlines()[-1] == "0"
