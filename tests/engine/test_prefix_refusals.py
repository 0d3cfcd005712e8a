"""Prefixes and caches that do not fit each other, and calls that make no sense."""

import numpy as np
import pytest
from prefix_cases import (
    MODEL,
    append,
    attention,
    filled,
    new_caches,
    opened,
)
from prefix_parts import LENGTHS, joined, split

from nspjax.errors import (
    InvalidArgumentError,
    StaleHandleError,
    StorePathError,
)
from nspjax.runtime.new_file import TEMPORARY_SUFFIX


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 3}, "its n_layers is 2, theirs is 3"),
        ({"n_kv_heads": 2}, "its n_kv_heads is 3, theirs is 2"),
        ({"head_dim": 32}, "its head_dim is 64, theirs is 32"),
        ({"dtype": "float16"}, "its dtype is 'bf16', theirs is 'f16'"),
        ({"interval_tokens": 32}, "its tile_tokens is 16, theirs is 32; .*interval_tokens=16"),
        ({"capacity_tokens": 332}, "has 333 tokens: .* a capacity_tokens of 332"),
        ({"kv_dtype": "int8"}, "its kv_dtype is 'bf16', theirs is 'int8'"),
    ],
)
def test_other_caches_are_refused(tmp_path, changes, message):
    path = tmp_path / "prefix"
    with opened(tmp_path, 0) as store:
        store.save_prefix(path, filled(store, LENGTHS), 0, model=MODEL)
        caches = filled(store, (0, 100), **changes)
        with pytest.raises(InvalidArgumentError, match=message) as error:
            store.load_prefix(path, caches, 1, model=MODEL)
        assert str(path) in str(error.value)
        attention(store, caches[0], 1)  # nothing was changed


def test_another_model_or_tile_layout_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "prefix"
    with opened(tmp_path, 0) as store:
        caches = filled(store, LENGTHS)
        store.save_prefix(path, caches, 0, model=MODEL)
        message = "its model is 'tests/random@1', theirs is 'tests/random@2'"
        with pytest.raises(InvalidArgumentError, match=message):
            store.load_prefix(path, caches, 1, model="tests/random@2")
        header, rest = split(path.read_bytes())
        other = {**header, "tile_layout": header["tile_layout"] ^ 1}
        path.write_bytes(joined(other, rest))
        with pytest.raises(InvalidArgumentError, match=r"its tile_layout is \d+, theirs is \d+"):
            store.load_prefix(path, caches, 1, model=MODEL)
        path.write_bytes(joined({**header, "format": 2}, rest))
        with pytest.raises(InvalidArgumentError, match="of format 2, this nspjax reads format 1"):
            store.load_prefix(path, caches, 1, model=MODEL)


def test_bad_calls(tmp_path):
    path = tmp_path / "prefix"
    with opened(tmp_path, 0) as store, opened(tmp_path, 0) as other:
        caches = filled(store, LENGTHS)
        for arguments, message in [
            ((caches, 3), "rows 0 to 2"),
            ((caches, -1), "rows 0 to 2"),
            ((caches, 0, 334), "row 0 has 333"),
            ((caches, 0, 0), "1 is the least"),
            (([], 0), "got none"),
            (([caches[0]] * 2, 0), "for two layers"),
            (([caches[0], new_caches(store, 1, head_dim=8)[0]], 0, 1), "has 0"),
            (([caches[0], filled(store, (9,), n_layers=1, head_dim=8)[0]], 0), "must be alike"),
            ((filled(other, LENGTHS), 0), "another Store"),
        ]:
            with pytest.raises(InvalidArgumentError, match=message):
                store.save_prefix(path, *arguments, model=MODEL)
        with pytest.raises(InvalidArgumentError, match="model is ''"):
            store.save_prefix(path, caches, 0, model="")
        newer = [append(store, cache, 2, 1, np.random.default_rng(0)) for cache in caches]
        with pytest.raises(StaleHandleError):
            store.save_prefix(path, caches, 0, model=MODEL)
        store.save_prefix(path, newer, 0, model=MODEL)
        with pytest.raises(StaleHandleError):
            store.load_prefix(path, caches, 0, model=MODEL)


def test_paths_that_cannot_be(tmp_path):
    with opened(tmp_path, 0) as store:
        caches = filled(store, LENGTHS)
        (tmp_path / "file").write_bytes(b"")
        (tmp_path / "directory").mkdir()
        for name in ("missing/prefix", "file/prefix", "directory", "x" * 256):
            with pytest.raises(StorePathError) as error:
                store.save_prefix(tmp_path / name, caches, 0, model=MODEL)
            assert str(tmp_path) in str(error.value)
        for name, why in (("missing", "opening .*missing"), ("directory", "is a directory")):
            with pytest.raises(StorePathError, match=why):
                store.load_prefix(tmp_path / name, caches, 0, model=MODEL)
        longest = "é" + "x" * 253
        store.save_prefix(tmp_path / longest, caches, 0, model=MODEL)
        assert store.load_prefix(tmp_path / longest, caches, 1, model=MODEL)[1] == LENGTHS[0]
        assert not list(tmp_path.rglob(f"*{TEMPORARY_SUFFIX}"))
