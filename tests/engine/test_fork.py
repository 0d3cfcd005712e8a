"""A store's process forks: the child does nothing to the store, and is told so; the parent goes on.

In processes of their own: JAX warns when its process forks, and a child that hangs is killed.
"""

import copy
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import nspjax
from nspjax import _engine
from nspjax.errors import InvalidArgumentError

REFUSED = "StoreClosedError: this store was opened by process "


def run(job, directory, timeout=120):
    command = [sys.executable, str(Path(__file__).with_name("fork_child.py")), job, str(directory)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def told_by(job, directory):
    ended = run(job, directory)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def assert_refused(children):
    for use, (told, status) in children.items():
        assert told.startswith(REFUSED), use
        assert "spawn" in told, "says what to do"
        assert "nor compute with JAX" in told, "a store of its own would hang there, in JAX"
        assert status == 0, use


def test_what_a_child_can_do(tmp_path):
    """Nothing with its parent's store, whatever queue that has; as ever with its own."""
    for told in told_by("engine", tmp_path).values():
        assert_refused(told["uses"])
        assert told["closed"] == ["returned True", 0]
        assert REFUSED in told["grandchild"][0]
        assert told["own"] == ["returned True", 0]
        assert told["same"][0].startswith("StoreBusyError: ")
        for what in ("kept", "data", "weight"):
            assert told[what] is True, what
        assert told["free"] == "returned None", "closed by its own process"


def test_forks_while_it_is_used(tmp_path):
    told = told_by("busy", tmp_path)
    assert told["wrong"] == 0
    assert_refused(dict(enumerate(told["children"])))


def test_the_whole_api(tmp_path):
    told = told_by("api", tmp_path)
    assert_refused(told["uses"] | {"a child that ends as a script": told["script"]})
    assert told["raises"] == ["InvalidArgumentError: as told", 0]
    assert told["data"] is True
    assert told["was"] is True
    assert told["left"] == ["kv", "prefix"]


def test_every_start_method(tmp_path):
    told = told_by("processes", tmp_path)
    assert told["fork"][0].startswith(REFUSED)
    for method in ("fork", "forkserver", "spawn"):
        inherited, lengths, busy = told[method]
        assert method == "fork" or inherited == "nothing"
        assert lengths == [2000, 2000]
        assert busy.startswith("StoreBusyError: ")
        assert told[f"{method} exit"] == 0
        assert told[f"{method} data"] is True


def test_a_child_that_outlives_its_parent(tmp_path):
    """It does not hold what its parent had."""
    ended = run("outlived", tmp_path)
    assert ended.returncode == -signal.SIGKILL
    child = json.loads(ended.stdout)["child"]
    try:
        os.kill(child, 0)  # it is there
        _engine.Store([str(tmp_path / "store")], 8 << 20).close()
    finally:
        os.kill(child, signal.SIGKILL)


def test_what_is_left_by_a_child(tmp_path):
    """The block of a new file, or of a trace: a child that leaves it, well or not, neither makes
    the file nor removes what its parent writes still."""
    told = told_by("blocks", tmp_path)
    assert told["left"] == [["returned False", 0]] * 3
    assert told["names"] == [".file.nspjax-saving"]
    assert told["file"] == "half whole"
    assert told["events"] > 0


def test_a_store_is_not_sent(tmp_path):
    with nspjax.Store("memory:", host_memory="8MiB") as store:
        for send in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(InvalidArgumentError, match="open one there"):
                send(store)
