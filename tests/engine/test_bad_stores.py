"""What can be wrong when a store is opened or a cache made: each is its own clear error."""

import contextlib
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from engine_oracle import append

from nspjax import _engine
from nspjax.errors import (
    InvalidArgumentError,
    StoreBusyError,
    StoreDamagedError,
    StoreFullError,
    StorePathError,
)

MIB = 1 << 20


def open_at(path, **options):
    return _engine.Store([str(path)], 8 * MIB, **options)


# ---- paths --------------------------------------------------------------------------------------


def test_missing_directory(tmp_path):
    with pytest.raises(StorePathError, match=r"missing.*No such file.*give an existing directory"):
        open_at(tmp_path / "missing")


def test_not_a_directory(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorePathError, match="is not a directory"):
        open_at(tmp_path / "file")


@contextlib.contextmanager
def as_nobody():
    """Root may write anywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def test_not_writable():
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o555)
        with as_nobody(), pytest.raises(StorePathError, match=r"Permission denied.*may write to"):
            open_at(path)


def test_a_directory_in_the_place_of_the_file(tmp_path):
    (tmp_path / "nspjax.kv").mkdir()
    with pytest.raises(StorePathError, match=r"cannot use .*nspjax.kv, which is a directory"):
        open_at(tmp_path)


@pytest.mark.parametrize("spec", ["file:", ""])
def test_no_path(spec):
    with pytest.raises(StorePathError, match="no path"):
        open_at(spec)


def test_file_prefix(tmp_path):
    store = open_at(f"file:{tmp_path}")
    assert store.devices()[0]["path"] == f"{tmp_path}/nspjax.kv"
    store.close()


def test_one_bad_device_of_two_gives_the_other_back(tmp_path):
    with pytest.raises(StorePathError, match="missing"):
        _engine.Store([str(tmp_path), str(tmp_path / "missing")], 8 * MIB)
    open_at(tmp_path).close()


def test_bad_options(tmp_path):
    for options, message in [
        ({"io": "aio"}, 'io="aio"'),
        ({"fault": "read:boom"}, 'fault="read:boom"'),
        ({"threads": -1}, "threads is -1"),
    ]:
        with pytest.raises(InvalidArgumentError, match=message):
            open_at(tmp_path, **options)
    with pytest.raises(InvalidArgumentError, match="too little"):
        _engine.Store(["memory:"], 1000)
    with pytest.raises(InvalidArgumentError, match="needs a device"):
        _engine.Store([], MIB)


# ---- whose file it is ---------------------------------------------------------------------------


def test_opened_twice_in_one_process(tmp_path):
    store = open_at(tmp_path)
    with pytest.raises(StoreBusyError, match="this process already"):
        open_at(tmp_path)
    store.close()
    open_at(tmp_path).close()


OTHER_PROCESS = """
import sys
from nspjax import _engine
store = _engine.Store([sys.argv[1]], 8 << 20)
cache, = store.create_caches(1, 1, 1024, 1, 64, "f32", 16)
store.fill_synthetic(cache, 1000)
print("open", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def another_process(path):
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def test_opened_by_another_process_that_then_dies(tmp_path):
    with another_process(tmp_path) as process, pytest.raises(StoreBusyError) as error:
        open_at(tmp_path)
    assert f"another process (pid {process.pid})" in str(error.value)
    assert (tmp_path / "nspjax.kv").stat().st_size > 100_000  # it was killed: nothing tidied up
    store = open_at(tmp_path)
    assert (tmp_path / "nspjax.kv").stat().st_size == 4096
    store.close()


@pytest.mark.parametrize("contents", [b"x", b"something else " * 1000, b"\0" * 8192])
def test_another_file_is_not_overwritten(tmp_path, contents):
    path = tmp_path / "nspjax.kv"
    path.write_bytes(contents)
    with pytest.raises(StoreDamagedError, match=r"not an nspjax store.*left as it is"):
        open_at(tmp_path)
    assert path.read_bytes() == contents


@pytest.mark.parametrize("at", [8, 20, 40, 60, 2000, 4095])
def test_a_flipped_bit_in_the_superblock(tmp_path, at):
    open_at(tmp_path).close()
    path = tmp_path / "nspjax.kv"
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(StoreDamagedError, match="checksum is wrong"):
        open_at(tmp_path)
    assert path.read_bytes() == damaged
    damaged[at] ^= 4
    path.write_bytes(damaged)
    open_at(tmp_path).close()


def test_an_empty_file_is_a_new_store(tmp_path):
    (tmp_path / "nspjax.kv").touch()
    open_at(tmp_path).close()


# ---- room ---------------------------------------------------------------------------------------


def test_too_large_for_the_device(open_store):
    """Says what is needed, what there is, and how many rows fit; that many then do."""
    for n_directories in (0, 2):
        store = open_store(n_directories, host_memory=256 * MIB)
        shape = (1 << 24, 8, 128, "bf16")
        needs = store.cache_needs(2, 64, *shape)
        fit = needs["rows_that_fit"]
        assert fit < 64
        with pytest.raises(StoreFullError, match=rf"need {needs['device_bytes'][0]} bytes.*free; "
                           rf"{fit} of the 64 rows fit"):  # fmt: skip
            store.create_caches(2, 64, *shape)
        assert all(device["reserved_bytes"] == 0 for device in store.devices())
        small = store.cache_needs(2, 4, 1 << 12, 8, 128, "bf16")
        assert small["rows_that_fit"] == 4
        store.create_caches(2, 4, 1 << 12, 8, 128, "bf16")
        for device, needed in zip(store.devices(), small["device_bytes"], strict=True):
            assert device["reserved_bytes"] == needed


def test_promised_room_is_not_given_twice(open_store):
    """What an empty cache may still take is not free. (Of directories: test_reserved_room.py)"""
    store = open_store(0, host_memory=256 * MIB)
    free = store.devices()[0]["free_bytes"]
    token = 2 * 8 * 128 * 2
    capacity = int(0.6 * free / token) // 256 * 256
    store.create_caches(1, 1, capacity, 8, 128, "bf16")
    with pytest.raises(StoreFullError, match="0 of the 1 rows fit"):
        store.create_caches(1, 1, capacity, 8, 128, "bf16")


def test_tails_of_all_caches_are_counted(open_store):
    """Each alone fits; the second does not beside the first."""
    store = open_store(0, host_memory=1 << 20)
    shape = (1, 16, 64, 4, 64, "f32", 16)  # a tail of 32 KiB each row
    (first,) = store.create_caches(*shape)
    with pytest.raises(StoreFullError, match="host_memory of at least"):
        store.create_caches(*shape)
    store.drop_cache(first)
    store.create_caches(*shape)


@pytest.mark.parametrize(("n_directories", "heads"), [(1, 4), (2, 3)])
def test_a_staging_buffer_has_a_whole_tile(open_store, n_directories, heads):
    """That of the device with the most heads. What the error says is enough, and hardly less is
    not."""
    shape = (1, 1, 1024, heads, 64, "f32", 256)
    tile_bytes = -(-heads // n_directories) * 256 * 2 * 64 * 4
    with pytest.raises(StoreFullError, match="staging buffers of a whole tile") as error:
        open_store(n_directories, host_memory=2 << 20).create_caches(*shape)
    enough = int(str(error.value).split("at least ")[1].split()[0])
    with pytest.raises(StoreFullError, match=f"host_memory of at least {enough} "):
        open_store(n_directories, host_memory=enough - 4096 * 4).create_caches(*shape)
    store = open_store(n_directories, host_memory=enough)
    assert store.stats()["staging_bytes"] >= n_directories * tile_bytes
    (cache,) = store.create_caches(*shape)
    k = np.arange(1024 * heads * 64, dtype=np.float32).reshape(1, 1024, heads, 64)
    append(store, cache, 0, k, -k, [0], [0], [1024])
    store.flush()
    for got, given in zip(store.read(cache, 0, 0, 1024), (k, -k), strict=True):
        np.testing.assert_array_equal(got, given[0])


def test_too_little_host_memory(open_store):
    """The error names an amount that is then enough."""
    shape = (4, 256, 4096, 8, 128, "bf16")
    with pytest.raises(StoreFullError, match="host_memory of at least") as error:
        open_store(1).create_caches(*shape)
    enough = int(str(error.value).split("at least ")[1].split()[0])
    fitting = int(str(error.value).split("; ")[-1].split()[0])
    assert 0 < fitting < 256
    open_store(1, host_memory=enough).create_caches(*shape)
    open_store(1).create_caches(4, fitting, *shape[2:])
    with pytest.raises(StoreFullError, match=f"host_memory of at least {enough} "):
        open_store(1, host_memory=enough // 2).create_caches(*shape)


def test_bad_shapes(open_store):
    store = open_store()
    for shape, message in [
        ((0, 1, 64, 1, 16), "n_layers is 0"),
        ((1, 0, 64, 1, 16), "batch is 0"),
        ((1, 1, -5, 1, 16), "capacity_tokens is -5"),
        ((1, 1, 64, 1, 0), "head_dim is 0"),
    ]:
        with pytest.raises(InvalidArgumentError, match=f"{message}: it must be 1 to"):
            store.create_caches(*shape, "f32")
    with pytest.raises(InvalidArgumentError, match="use f32, bf16 or f16"):
        store.create_caches(1, 1, 64, 1, 16, "int8")
