"""Devices and disks that fail while a prefix is saved or loaded."""

import os

import jax.numpy as jnp
import pytest
from prefix_cases import (
    MODEL,
    TILE,
    assert_same,
    filled,
    opened,
)
from prefix_parts import LENGTHS
from test_faults import in_own_mounts

from nspjax.errors import (
    StorageIOError,
    StoreBusyError,
    StoreDamagedError,
)
from nspjax.runtime import prefix_file
from nspjax.runtime.new_file import TEMPORARY_SUFFIX


def test_a_read_error_during_a_save(tmp_path):
    """Nothing gets the name, nothing is left; the next save is good."""
    path = tmp_path / "prefix"
    with opened(tmp_path, 1, _fault="read:eio:after=1") as store:
        caches = filled(store, LENGTHS)
        store.flush()
        path.write_bytes(b"the one before")
        with pytest.raises(StorageIOError, match=r"nspjax\.kv failed: Input/output error"):
            store.save_prefix(path, caches, 0, model=MODEL)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["device0", "prefix"]
        assert path.read_bytes() == b"the one before"
        store.save_prefix(path, caches, 0, model=MODEL)
        caches, n_tokens = store.load_prefix(path, caches, 1, model=MODEL)
        assert_same(store, caches, 0, store, caches, 1, n_tokens)


def test_a_damaged_tile_is_not_saved(tmp_path):
    path = tmp_path / "prefix"
    with opened(tmp_path, 1) as store:
        caches = filled(store, LENGTHS)
        store.flush()
        with open(store.devices()[0].path, "r+b") as file:
            file.seek(3 * 4096 + 5)
            file.write(b"\xff\x00\xff")
            file.flush()
            os.fsync(file.fileno())
        with pytest.raises(StoreDamagedError, match=r"nspjax\.kv is damaged"):
            store.save_prefix(path, caches, 0, model=MODEL)
        assert [p.name for p in tmp_path.iterdir()] == ["device0"]


def test_a_write_error_during_a_load(tmp_path):
    path = tmp_path / "prefix"
    with opened(tmp_path, 1, _fault="write:eio:after=30:times=1000") as store:
        caches = filled(store, (100, 0, 0))
        store.save_prefix(path, caches, 0, model=MODEL)

        def load_again_and_again():
            now = caches
            for _ in range(50):
                now, _ = store.load_prefix(path, now, 1, model=MODEL)

        with pytest.raises(StorageIOError):
            load_again_and_again()
        assert {store._engine.lengths(int(cache.k[1]))[1] for cache in caches} <= {0, 100}


def test_a_full_disk_during_a_save():
    """The old file stays, nothing is left beside it, and there is as much room as before."""
    out = in_own_mounts("""
        import os
        import nspjax, jax.numpy as jnp
        path = mount("tmpfs", "size=1m")
        with nspjax.Store("memory:", host_memory="8MiB") as store:
            shape = dict(batch=1, capacity_tokens=4096, n_kv_heads=2, head_dim=64)
            caches = store.kv_caches(2, **shape)
            caches = [store.fill_synthetic(cache, 300) for cache in caches]
            store.save_prefix(path + "/prefix", caches, 0, model="m")
            old = open(path + "/prefix", "rb").read()
            caches = [store.fill_synthetic(cache, 4096) for cache in caches]
            for name in ("/prefix", "/another"):
                try:
                    store.save_prefix(path + name, caches, 0, model="m")
                except errors.StoreFullError as error:
                    print("full:", error)
            print("files:", os.listdir(path))
            print("same:", open(path + "/prefix", "rb").read() == old)
            _, n_tokens = store.load_prefix(path + "/prefix", caches, 0, model="m")
            print("tokens:", n_tokens)
    """)
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    assert "write of" in lines["full"]
    assert "No space left on device" in lines["full"]
    assert lines["files"] == "['prefix']"
    assert lines["same"] == "True"
    assert lines["tokens"] == "300"


def test_two_saves_of_one_name_at_a_time(tmp_path):
    with opened(tmp_path, 0) as store, prefix_file.new_file(tmp_path / "prefix"):
        caches = filled(store, LENGTHS)
        with pytest.raises(StoreBusyError, match="is being written"):
            store.save_prefix(tmp_path / "prefix", caches, 0, model=MODEL)
        store.save_prefix(tmp_path / "another", caches, 0, model=MODEL)
        assert len(list(tmp_path.glob(f".*{TEMPORARY_SUFFIX}"))) == 1


def test_saved_on_device_arrays(tmp_path):
    """Lengths come from the handle: a shorter handle saves less."""
    with opened(tmp_path, 0) as store:
        caches = filled(store, LENGTHS)
        shorter = [c.with_lengths(jnp.array([3 * TILE + 1, 0, 0], jnp.int32)) for c in caches]
        store.save_prefix(tmp_path / "prefix", shorter, 0, model=MODEL)
        _, n_tokens = store.load_prefix(tmp_path / "prefix", caches, 2, model=MODEL)
        assert n_tokens == 3 * TILE + 1
