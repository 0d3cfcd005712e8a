"""Paths with bytes that are no UTF-8, with NULs, long ones: they work, or are refused by name."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefix_cases import MODEL, filled, opened

import nspjax
from nspjax import _engine
from nspjax.errors import (
    InvalidArgumentError,
    NspjaxError,
    StoreBusyError,
    StoreDamagedError,
    StorePathError,
)

MIB = 1 << 20

# ---- any bytes ----------------------------------------------------------------------------------


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.binary(min_size=1, max_size=255).filter(lambda n: not {0, 0x2F} & set(n)))
def test_any_name(tmp_path, name):
    """Also in what is told: by the store, in errors, by way of a prefix."""
    if name in (b".", b".."):
        return
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(path, exist_ok=True)
    for given_as in (path, os.fsdecode(path)):
        store = _engine.Store([given_as], 8 * MIB)
        assert os.fsencode(store.devices()[0]["path"]) == path + b"/nspjax.kv"
        with pytest.raises(StoreBusyError, match=r"nspjax\.kv is opened by this process") as error:
            _engine.Store([given_as], 8 * MIB)
        str(error.value).encode()  # it can be printed, and be part of JSON
        store.close()
    assert _engine.kept_profile(path) is None


BYTES = "st\udce9 \udcff\udc80"


def test_what_is_told_can_be_printed(tmp_path):
    directory = tmp_path / BYTES
    with pytest.raises(StorePathError, match=r"st\\xe9 \\xff\\x80 cannot be used as a store"):
        _engine.Store([str(directory)], 8 * MIB)
    directory.mkdir()
    (directory / "nspjax.kv").write_bytes(b"a letter")
    with pytest.raises(StoreDamagedError, match=r"st\\xe9"):
        _engine.Store([str(directory)], 8 * MIB)


def test_an_error_by_way_of_xla(tmp_path):
    """What the engine says of a path comes back whole from a compiled program."""
    import jax.numpy as jnp

    directory = tmp_path / BYTES
    directory.mkdir()
    with nspjax.Store(directory, host_memory="16MiB", pinned=0) as store:
        cache = store.kv_cache(
            batch=1, capacity_tokens=4096, n_kv_heads=1, head_dim=64, dtype=jnp.float32
        )
        cache = store.fill_synthetic(cache, 4000)
        store.flush()
        os.truncate(directory / "nspjax.kv", 8192)
        q = jnp.ones((1, 1, 1, 64))
        near = nspjax.near_storage(nspjax.cached_attention, store=store)
        with pytest.raises(NspjaxError, match=r"st\\xe9 .*nspjax.kv failed: the file ends there"):
            near(q, q, q, cache)


def test_a_prefix(tmp_path):
    with opened(tmp_path, 0) as store:
        caches = filled(store, (40, 0, 0))
        for path in (tmp_path / BYTES, os.fsencode(tmp_path / "b\udcfe")):
            store.save_prefix(path, caches, 0, model=MODEL)
            caches, n_tokens = store.load_prefix(path, caches, 1, model=MODEL)
            assert n_tokens == 40
        with pytest.raises(StorePathError) as error:
            store.load_prefix(tmp_path / "missing" / BYTES, caches, 0, model=MODEL)
        str(error.value).encode()


C_LOCALE = """
import os, sys
from nspjax import _engine, errors
path = sys.argv[1]
store = _engine.Store([path], 8 << 20)
print(os.fsencode(store.devices()[0]["path"]) == os.fsencode(path) + b"/nspjax.kv")
store.close()
try:
    _engine.Store([path + "/missing"], 8 << 20)
except errors.StorePathError as error:
    print("cannot be used" in str(error))
try:
    _engine.Store([chr(0xe9)], 8 << 20)
except errors.NspjaxError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("utf8", ["0", "1"])
def test_in_a_c_locale(tmp_path, utf8):
    directory = tmp_path / "é\udce9"
    directory.mkdir()
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": utf8, "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", C_LOCALE, directory],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    last = "InvalidArgumentError" if utf8 == "0" else "StorePathError"
    assert ended.stdout.split() == ["True", "True", last]


def test_info_shows_it(tmp_path):
    directory = tmp_path / BYTES
    directory.mkdir()
    command = [sys.executable, "-m", "nspjax", "info", "--store", directory]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert r"st\xe9" in shown.stdout
    as_json = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(as_json.stdout)["stores"][0]["path"].endswith(r"st\xe9 \xff\x80")
    missing = subprocess.run(
        [*command[:-1], directory / BYTES], capture_output=True, text=True, check=False
    )
    assert missing.returncode == 2
    assert "does not exist" in missing.stderr


# ---- no paths -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["a\0b", b"a\0b", "\ud800", 3, ["x"], np.zeros(2)])
def test_what_is_no_path(tmp_path, path):
    for use in (
        lambda: _engine.Store([path], 8 * MIB),
        lambda: _engine.kept_profile(path),
        lambda: _engine.expand_cards([path]),
    ):
        with pytest.raises(InvalidArgumentError, match="is no path"):
            use()
    with opened(tmp_path, 0) as store:
        caches = filled(store, (40, 0, 0))
        with pytest.raises(InvalidArgumentError, match="is no path"):
            store.save_prefix(path, caches, 0, model=MODEL)
        with pytest.raises(InvalidArgumentError, match="is no path"):
            store.load_prefix(path, caches, 0, model=MODEL)
        with pytest.raises(InvalidArgumentError, match="is no path"):
            store.save_trace(path)


def test_too_long(tmp_path):
    for path in (tmp_path / ("x" * 256), tmp_path.joinpath(*["y" * 200] * 30)):
        with pytest.raises(StorePathError, match="File name too long"):
            _engine.Store([str(path)], 8 * MIB)
        with opened(tmp_path, 0) as store, pytest.raises(StorePathError, match="name too long"):
            store.save_prefix(path, filled(store, (40, 0, 0)), 0, model=MODEL)
