"""Each thing that can be wrong with a store, a cache or a call is its own clear error."""

import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest
from engine_oracle import append, bits, int32

from nspjax import _engine
from nspjax.errors import (
    InvalidArgumentError,
    StaleHandleError,
    StoreBusyError,
    StoreClosedError,
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_not_writable(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorePathError, match="Permission denied"):
        open_at(tmp_path)


def test_a_directory_in_the_place_of_the_file(tmp_path):
    (tmp_path / "nspjax.kv").mkdir()
    with pytest.raises(StorePathError, match=r"cannot open .*nspjax.kv: Is a directory"):
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
    with pytest.raises(StorePathError):
        _engine.Store([str(tmp_path), str(tmp_path / "missing")], 8 * MIB)
    open_at(tmp_path).close()


def test_bad_options(tmp_path):
    for options in [{"io": "aio"}, {"fault": "read:boom"}, {"threads": -1}]:
        with pytest.raises(InvalidArgumentError):
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
    """What an empty cache may still take is not free, on any device kind."""
    for n_directories in (0, 1):
        store = open_store(n_directories, host_memory=256 * MIB)
        free = store.devices()[0]["free_bytes"]
        token = 2 * 8 * 128 * 2
        capacity = int(0.6 * free / token) // 256 * 256
        store.create_caches(1, 1, capacity, 8, 128, "bf16")
        with pytest.raises(StoreFullError, match="0 of the 1 rows fit"):
            store.create_caches(1, 1, capacity, 8, 128, "bf16")


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
    with pytest.raises(StoreFullError):
        open_store(1, host_memory=enough // 2).create_caches(*shape)


def test_bad_shapes(open_store):
    store = open_store()
    for shape in [(0, 1, 64, 1, 16), (1, 0, 64, 1, 16), (1, 1, -5, 1, 16), (1, 1, 64, 1, 0)]:
        with pytest.raises(InvalidArgumentError, match="must be 1 to"):
            store.create_caches(*shape, "f32")
    with pytest.raises(InvalidArgumentError, match="use f32, bf16 or f16"):
        store.create_caches(1, 1, 64, 1, 16, "int8")


# ---- calls --------------------------------------------------------------------------------------

ROWS, CAPACITY, HEADS, D = 3, 64, 2, 16


@pytest.fixture
def cached(open_store):
    """A store and a cache at version 1 whose rows have 20, 0 and 64 tokens."""
    store = open_store(1)
    (cache,) = store.create_caches(1, ROWS, CAPACITY, HEADS, D, "f32", 16)
    k = np.ones((ROWS, 64, HEADS, D), np.float32)
    assert append(store, cache, 0, k, k, range(ROWS), [0, 0, 0], [20, 0, 64]) == 1
    return store, cache


def kv(rows, tokens=1, dtype=np.float32, shape=(HEADS, D)):
    return np.ones((rows, tokens, *shape), dtype)


def attend(store, cache, version, rows, position, length, q=None, **options):
    q = kv(len(rows)) if q is None else q
    return store.attend(
        cache, version, q, int32(rows), int32(position), int32(length), 1.0, **options
    )


def test_stale_handles(cached):
    store, cache = cached
    for version in (0, 2):
        message = f"used twice: cache {cache} is at version 1, the handle is from version {version}"
        with pytest.raises(StaleHandleError, match=message):
            append(store, cache, version, kv(1), kv(1), [0], [20], [1])
        with pytest.raises(StaleHandleError, match=message):
            attend(store, cache, version, [0], [19], [20])
    attend(store, cache, 1, [0], [19], [20])


@pytest.mark.parametrize(
    ("rows", "start", "n_new", "message"),
    [
        ([0], [21], [1], "append to row 0 .*start is 21, but the row has 20"),
        ([0], [-1], [1], "start is -1"),
        ([2], [64], [1], "row 2 .*64 \\+ 1 tokens do not fit its capacity of 64"),
        ([3], [0], [1], "row 3 .*rows 0 to 2"),
        ([-1], [0], [1], "rows 0 to 2"),
        ([0, 0], [20, 20], [1, 1], "row 0 .*given twice"),
        ([0], [20], [3], "n_new is 3, with 2 tokens given"),
        ([0], [20], [-1], "n_new is -1"),
        ([1, 0], [0, 21], [1, 1], "batch row 1"),
    ],
)
def test_bad_appends_change_nothing(cached, rows, start, n_new, message):
    store, cache = cached
    before = store.stats()["kv_bytes_stored"]
    with pytest.raises(InvalidArgumentError, match=message):
        append(store, cache, 1, kv(len(rows), 2), kv(len(rows), 2), rows, start, n_new)
    assert store.lengths(cache) == [20, 0, 64]
    assert store.version(cache) == 1
    assert store.stats()["kv_bytes_stored"] == before


def test_idle_rows_need_not_be_valid(cached):
    """n_new 0 leaves a row alone, whatever row and start say; it is not cut either."""
    store, cache = cached
    rows, start = [0, 0, 99, 1], [3, 20, 0, 0]
    assert append(store, cache, 1, kv(4), kv(4), rows, start, [0, 0, 0, 1]) == 2
    assert store.lengths(cache) == [20, 1, 64]


@pytest.mark.parametrize(
    ("rows", "position", "length", "options", "message"),
    [
        ([0], [20], [21], {}, "attend over row 0 .*length is 21, but the row has 20"),
        ([0], [20], [-1], {}, "length is -1"),
        ([3], [0], [1], {}, "rows 0 to 2"),
        ([0], [-1], [1], {}, "position is -1"),
        ([0], [0], [1], {"window": -1}, "window -1"),
        ([0], [0], [1], {"softcap": -1.0}, "softcap -1"),
        ([0], [0], [1], {"softcap": float("nan")}, "softcap nan"),
    ],
)
def test_bad_attends(cached, rows, position, length, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        attend(*cached, 1, rows, position, length, **options)


def test_rows_without_length_give_zero(cached):
    """Idle rows may repeat, and need not exist."""
    out, lse = attend(*cached, 1, [99, 0, 0], [0, 19, 5], [0, 20, 0])
    assert np.all(out[[0, 2]] == 0)
    assert np.all(lse[[0, 2]] == -np.inf)
    np.testing.assert_allclose(out[1], 1, rtol=1e-6)


def test_wrong_arrays(cached):
    store, cache = cached
    rows, one = int32([0]), kv(1)
    wrong = [
        (kv(1, shape=(3, D)), one),
        (one, kv(1, 2)),
        (one[0], one[0]),
        (one.view(np.uint32), one),
        (bits(one.astype(np.float16)), bits(one.astype(np.float16))),
    ]
    for k, v in wrong:
        with pytest.raises(InvalidArgumentError):
            store.append(cache, 1, k, v, rows, int32([20]), rows + 1)
    with pytest.raises(InvalidArgumentError, match="start"):
        store.append(cache, 1, one, one, rows, int32([20, 1]), rows + 1)
    with pytest.raises(InvalidArgumentError, match="3 query heads"):
        attend(store, cache, 1, [0], [0], [1], q=kv(1, shape=(3, D)))
    with pytest.raises(InvalidArgumentError, match="q is"):
        attend(store, cache, 1, [0], [0], [1], q=kv(1, shape=(2, D + 1)))
    with pytest.raises(InvalidArgumentError, match="uint16"):
        attend(store, cache, 1, [0], [0], [1], q=bits(one.astype(np.float16)))


def test_bad_reads(cached):
    store, cache = cached
    for row, begin, end in [(3, 0, 0), (0, 0, 21), (0, 3, 2), (0, -1, 2)]:
        with pytest.raises(InvalidArgumentError, match="read of"):
            store.read(cache, row, begin, end)


def test_dropped_caches_and_closed_stores(cached):
    store, cache = cached
    store.drop_cache(cache)
    with pytest.raises(StoreClosedError, match=f"no cache {cache}: it was dropped"):
        attend(store, cache, 1, [0], [19], [20])
    with pytest.raises(StoreClosedError):
        store.drop_cache(cache)
    assert not store.closed
    store.close()
    store.close()
    assert store.closed
    calls = [
        lambda: attend(store, cache, 1, [0], [19], [20]),
        lambda: store.create_caches(1, 1, 64, 1, 16, "f32"),
        store.devices,
        store.flush,
    ]
    for call in calls:
        with pytest.raises(StoreClosedError, match="is closed"):
            call()
    assert store.stats()["kv_bytes_stored"] == 0
