"""What stands in the place of a file of ours, and who may open ours."""

import contextlib
import os
import stat

import pytest
from files_in_the_way import (
    FILES,
    KINDS,
    MIB,
    at_once,
    dangling,
    device,
    link,
    load,
    look,
    of_another,
    open_kv,
    save,
    unix_socket,
)
from prefix_cases import opened

from nspjax import _engine
from nspjax.errors import StorePathError
from nspjax.runtime.plain_file import write_plain


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
