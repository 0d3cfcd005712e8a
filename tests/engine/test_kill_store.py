"""kill -9 at random times: a store opens as if new, and a saved prefix is whole or not there."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from kill_child import MODEL, SHAPE, saved_caches
from prefix_cases import new_caches, tokens

import nspjax
from nspjax.errors import StoreBusyError
from nspjax.runtime.new_file import TEMPORARY_SUFFIX

HERE = Path(__file__).parent


class Child:
    """A process that works on a store in `path`/kv and saves in `path`/prefixes."""

    def __init__(self, path: Path, seed: int, *more: str) -> None:
        arguments = [str(path / "kv"), str(path / "prefixes"), str(seed), *more]
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "kill_child.py"), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> "Child":
        assert self.said() == "open"
        return self

    def said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def __exit__(self, *_: object) -> None:
        """Killed, unless it ended by itself, which it must not."""
        self.process.send_signal(signal.SIGKILL)
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        assert code == -signal.SIGKILL


@pytest.fixture
def path(tmp_path):
    for name in ("kv", "prefixes"):
        (tmp_path / name).mkdir()
    return tmp_path


def assert_saved_prefixes(store, path: Path) -> int:
    """Each is one of those that were saved under its name, bit for bit. How many there are."""
    caches = new_caches(store, 2, **SHAPE)
    names = [p for p in (path / "prefixes").iterdir() if not p.name.startswith(".")]
    for file in names:
        caches, n_tokens = store.load_prefix(file, caches, 0, model=MODEL)
        got = [tokens(store, cache, 0, n_tokens) for cache in caches]
        matches = 0
        for variant in range(3):
            wanted = saved_caches(store, int(file.name), variant)
            if int(wanted[0].lengths[1]) == n_tokens:
                for cache, found in zip(wanted, got, strict=True):
                    np.testing.assert_array_equal(tokens(store, cache, 1, n_tokens), found)
                matches += 1
            for cache in wanted:
                store.drop(cache)
        assert matches == 1, file
    for cache in caches:
        store.drop(cache)
    return len(names)


@pytest.mark.parametrize(
    "n_kills", [5, pytest.param(100, marks=pytest.mark.slow)], ids="{}-kills".format
)
def test_killed_at_random_times(path, n_kills):
    choose = random.Random(n_kills)
    n_saved = n_stale = 0
    for kill in range(n_kills):
        with Child(path, kill) as child:
            with pytest.raises(StoreBusyError, match=rf"pid {child.process.pid}\)"):
                nspjax.Store(path / "kv")
            # within the first steps, or at once; a step takes some hundredths of a second
            for _ in range(choose.choice([0, 0, 1, 2, 4])):
                child.said()
            time.sleep(choose.uniform(0, 0.1))

        temporaries = list((path / "prefixes").glob(f".*{TEMPORARY_SUFFIX}"))
        n_stale += len(temporaries)
        assert len(temporaries) <= 1, "a save removes what an earlier process left"
        with nspjax.Store(path / "kv", host_memory="16MiB") as store:
            file = path / "kv" / "nspjax.kv"
            assert file.stat().st_size == 4096
            assert file.stat().st_blocks * 512 <= 8192, "the dead process's room is given back"
            assert store.stats().kv_bytes_stored == 0
            n_saved = max(n_saved, assert_saved_prefixes(store, path))
        assert {p.name for p in (path / "kv").iterdir()} <= {"nspjax.kv", "nspjax.profile"}
    assert n_saved > 0
    print(f"{n_kills} kills: {n_saved} prefixes, {n_stale} temporary files were left and removed")


def test_killed_during_a_save(path):
    """The name has the old file, what was written of the new one is removed by the next save, and
    one that is being written is not."""
    with Child(path, 0, "3") as child:
        for step in range(1, 4):
            assert child.said() == str(step)
    before = {p.name: p.read_bytes() for p in (path / "prefixes").iterdir()}
    assert before
    name = sorted(before)[0]
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(HERE)!r})
from kill_child import *
from nspjax.runtime import prefix_file
class Dying(prefix_file.PrefixWriter):
    def add(self, data):
        super().add(data)
        if self._index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
prefix_file.PrefixWriter = Dying
store = nspjax.Store("memory:", host_memory="16MiB")
store.save_prefix({str(path / "prefixes" / name)!r}, saved_caches(store, 0, 0), 1, model=MODEL)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    stale = path / "prefixes" / f".{name}{TEMPORARY_SUFFIX}"
    assert stale.stat().st_size > 1000
    assert {p.name: p.read_bytes() for p in (path / "prefixes").iterdir() if p != stale} == before

    with nspjax.Store("memory:", host_memory="16MiB") as store:
        caches = saved_caches(store, 0, 1)
        with nspjax.runtime.new_file.new_file(path / "prefixes" / "being written"):
            store.save_prefix(path / "prefixes" / "new", caches, 1, model=MODEL)
            assert not stale.exists()
        assert {p.name for p in (path / "prefixes").iterdir()} == {*before, "new", "being written"}


def test_the_room_of_a_dead_process_is_given_back(path):
    file = path / "kv" / "nspjax.kv"
    with Child(path, 1, "0"), file.open("r+b") as data:
        data.seek(8192)
        data.write(os.urandom(900_000))
    assert file.stat().st_blocks * 512 > 800_000
    with nspjax.Store(path / "kv", host_memory="16MiB"):
        assert file.stat().st_size == 4096
        assert file.stat().st_blocks * 512 <= 8192
