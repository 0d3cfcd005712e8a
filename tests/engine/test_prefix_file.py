"""Prefixes that are kept in files: they come back bit for bit, or not at all and with a reason."""

import os
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prefix_cases import (
    MODEL,
    TILE,
    append,
    assert_same,
    attention,
    elements,
    filled,
    new_caches,
    opened,
    tokens,
)
from test_faults import in_own_mounts

from nspjax.errors import (
    InvalidArgumentError,
    StaleHandleError,
    StorageIOError,
    StoreBusyError,
    StoreDamagedError,
    StorePathError,
)
from nspjax.runtime import prefix_file
from nspjax.runtime.new_file import TEMPORARY_SUFFIX
from nspjax.runtime.prefix_file import CHUNK_FRAME, HEADER_FRAME, MAGIC, PrefixHeader, chunks

LENGTHS = (333, 200, 57)


@pytest.fixture
def small_chunks(monkeypatch):
    """Several chunks of tiles for each layer, also of prefixes that are short."""
    monkeypatch.setattr(prefix_file, "CHUNK_BYTES", 50_000)


# ---- round trips --------------------------------------------------------------------------------


@pytest.mark.parametrize("kv_dtype", [None, "int8", "int4"])
@pytest.mark.parametrize(("n_from", "n_to"), [(0, 2), (1, 0), (2, 1), (2, 3), (3, 2)])
def test_another_number_of_devices(tmp_path, small_chunks, n_from, n_to, kv_dtype):
    path = tmp_path / "prefix"
    with opened(tmp_path, n_from) as store, opened(tmp_path, n_to) as other:
        caches = filled(store, LENGTHS, kv_dtype=kv_dtype)
        others = filled(other, (40, 300, 0), seed=1, kv_dtype=kv_dtype)
        kept = tokens(other, others[0], 0, 40)
        for row, to_row, n_tokens in [(0, 1, 333), (1, 2, 200), (2, 1, 57)]:
            store.save_prefix(path, caches, row, model=MODEL)
            others, n_loaded = other.load_prefix(path, others, to_row, model=MODEL)
            assert n_loaded == n_tokens
            other.flush()
            assert_same(store, caches, row, other, others, to_row, n_tokens)
            np.testing.assert_array_equal(
                attention(store, caches[1], row).round(4),
                attention(other, others[1], to_row).round(4),
            )
        np.testing.assert_array_equal(tokens(other, others[0], 0, 40), kept)
        others = [append(other, cache, 1, 30, np.random.default_rng(5), 57) for cache in others]
        # the tile that is full now is stored in fewer bits; those before it are as they were
        n = 57 if kv_dtype is None else 57 // TILE * TILE
        np.testing.assert_array_equal(
            tokens(other, others[0], 1, n), tokens(store, caches[0], 2, n)
        )
    assert [p.name for p in tmp_path.iterdir() if not p.is_dir()] == ["prefix"]


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    length=st.integers(1, 100),
    n_tokens=st.integers(1, 100),
    before=st.integers(0, 100),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    n_layers=st.integers(1, 3),
    pinned=st.sampled_from([0, 50_000, None]),
)
def test_lengths(tmp_path, length, n_tokens, before, dtype, n_layers, pinned):
    n_tokens = min(length, n_tokens)
    shape = {"dtype": dtype, "n_layers": n_layers, "capacity_tokens": 100, "head_dim": 8}
    with opened(tmp_path, 1, pinned=pinned) as store, opened(tmp_path, 2) as other:
        caches = filled(store, (0, length), **shape)
        others = filled(other, (before, 0), seed=1, **shape)
        store.save_prefix(tmp_path / "prefix", caches, 1, n_tokens, model=MODEL)
        others, n_loaded = other.load_prefix(tmp_path / "prefix", others, 0, model=MODEL)
        assert n_loaded == n_tokens
        for cache, another in zip(caches, others, strict=True):
            assert other._engine.lengths(int(another.k[1]))[0] == n_tokens
            np.testing.assert_array_equal(
                tokens(store, cache, 1, n_tokens), tokens(other, another, 0, n_tokens)
            )


@pytest.mark.parametrize("n_directories", [0, 1, 2])
@pytest.mark.parametrize("pinned", [0, "100kB", None])
def test_shared_and_pinned_tiles(tmp_path, n_directories, pinned):
    """Saved from a row that shares its first tiles; loaded into a row whose tiles others have, who
    keep them."""
    path = tmp_path / "prefix"
    with opened(tmp_path, n_directories, pinned=pinned) as store:
        caches = filled(store, (333, 0, 0), batch=5)
        caches = [store.share_prefix(cache, 0, [2, 4], 150) for cache in caches]
        caches = [append(store, c, 4, 99, np.random.default_rng(7), 150) for c in caches]
        wanted = [tokens(store, cache, 4, 249) for cache in caches]
        row_0, row_2 = (tokens(store, caches[0], row, n) for row, n in [(0, 333), (2, 150)])
        store.save_prefix(path, caches, 4, model=MODEL)
        for row in (0, 2, 1):
            caches, n_tokens = store.load_prefix(path, caches, row, model=MODEL)
            assert n_tokens == 249
            for cache, expected in zip(caches, wanted, strict=True):
                np.testing.assert_array_equal(tokens(store, cache, row, 249), expected)
                np.testing.assert_array_equal(tokens(store, cache, 4, 249), expected)
            if row == 0:
                np.testing.assert_array_equal(tokens(store, caches[0], 2, 150), row_2)
        np.testing.assert_array_equal(row_0[:, :150], row_2)
        both = [attention(store, caches[0], row) for row in (0, 1)]
        np.testing.assert_array_equal(*both)


def test_tiles_that_no_device_has_yet_are_saved(tmp_path):
    with opened(tmp_path, 1) as store:
        caches = new_caches(store, n_layers=1)
        rng, where = np.random.default_rng(0), [np.array([n], np.int32) for n in (0, 0, 100)]
        k, v = (elements(rng, (1, 100, *caches[0].shape[2:])) for _ in "kv")
        _, number, version, _ = np.asarray(caches[0].k).tolist()
        version = store._engine.append(number, version, k, v, *where, hold=True)
        lengths = caches[0].lengths.at[0].set(100)
        caches = [caches[0].with_handles(store._engine.cache_handles(number, version), lengths)]
        assert store.stats().bytes_written == 0
        store.save_prefix(tmp_path / "prefix", caches, 0, model=MODEL)
        caches, _ = store.load_prefix(tmp_path / "prefix", caches, 1, model=MODEL)
        for row in (0, 1):
            np.testing.assert_array_equal(
                tokens(store, caches[0], row, 100), np.stack([k[0], v[0]])
            )


def test_a_save_replaces_the_one_before(tmp_path):
    path = tmp_path / "prefix"
    with opened(tmp_path, 1) as store:
        caches = filled(store, LENGTHS)
        store.save_prefix(path, caches, 0, model=MODEL)
        store.save_prefix(path, caches, 2, model=MODEL)
        caches, n_tokens = store.load_prefix(path, caches, 0, model=MODEL)
        assert n_tokens == LENGTHS[2]
        assert_same(store, caches, 0, store, caches, 2, n_tokens)


def test_any_integers_and_any_iterable(tmp_path):
    path = tmp_path / "prefix"
    with opened(tmp_path, 0) as store:
        caches = filled(store, LENGTHS)
        store.save_prefix(path, iter(caches), np.int32(1), np.int64(50), model=MODEL)
        caches, n_tokens = store.load_prefix(path, iter(caches), np.int64(2), model=MODEL)
        assert n_tokens == 50
        np.testing.assert_array_equal(
            tokens(store, caches[1], 2, 50), tokens(store, caches[1], 1, 50)
        )
        for wrong in (True, np.True_, 1.0, "1", [1]):
            with pytest.raises(InvalidArgumentError, match="n_tokens must be an integer"):
                store.save_prefix(path, caches, 1, wrong, model=MODEL)
            with pytest.raises(InvalidArgumentError, match="row must be an integer"):
                store.save_prefix(path, caches, wrong, model=MODEL)
            with pytest.raises(InvalidArgumentError, match="row must be an integer"):
                store.load_prefix(path, caches, wrong, model=MODEL)


# ---- refusals -----------------------------------------------------------------------------------


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


# ---- damage -------------------------------------------------------------------------------------


def split(data: bytes) -> tuple[dict, bytes]:
    import orjson

    begin = len(MAGIC) + HEADER_FRAME.size
    end = begin + HEADER_FRAME.unpack_from(data, len(MAGIC))[0]
    return orjson.loads(data[begin:end]), data[end:]


def joined(header: dict, rest: bytes) -> bytes:
    import orjson

    from nspjax import _engine

    text = orjson.dumps(header)
    checksum = _engine.crc32c(struct.pack("<I", len(text)) + text)
    return MAGIC + HEADER_FRAME.pack(len(text), checksum) + text + rest


def places(path) -> dict[str, int]:
    """An offset in each part of a file."""
    header, rest = split(path.read_bytes())
    del header["format"]
    size = path.stat().st_size
    found = {
        "magic": 3,
        "header size": 8,
        "header size, high": 11,
        "header checksum": 13,
        "header": len(MAGIC) + HEADER_FRAME.size + 20,
        "header's end": size - len(rest) - 1,
        "end mark": size - 5,
    }
    offset = size - len(rest)
    for index, chunk in enumerate(chunks(PrefixHeader(**header))):
        what = f"chunk {index}" + (" (tail)" if chunk.begin == chunk.end else "")
        for field, name in enumerate(["number", "size", "checksum", "frame's checksum"]):
            found[f"{what} {name}"] = offset + 4 * field + field % 4
        offset += CHUNK_FRAME.size
        found[f"{what} first byte"] = offset
        found[f"{what} middle"] = offset + chunk.n_bytes // 2
        found[f"{what} last byte"] = offset + chunk.n_bytes - 1
        offset += chunk.n_bytes
    return found


@pytest.mark.parametrize("damage", ["flipped", "cut", "cut after"])
def test_every_part_of_a_file(tmp_path, small_chunks, damage):
    """One bit flipped, or the file cut, in each part: refused, with the place, and the row is
    never half of it. Other rows, and the caches that were given, stay good."""
    path, damaged = tmp_path / "prefix", tmp_path / "damaged"
    with opened(tmp_path, 2) as store:
        caches = filled(store, (100, 200, 57))
        store.save_prefix(path, caches, 1, model=MODEL)
        whole, others = path.read_bytes(), attention(store, caches[1], 0)
        offsets = places(path)
        assert len(offsets) > 50
        for part, offset in offsets.items():
            data = bytearray(whole)
            if damage == "flipped":
                data[offset] ^= 1 << offset % 8
            else:
                del data[offset + (damage == "cut after") :]
            damaged.write_bytes(data)
            assert bytes(data) != whole
            with pytest.raises(StoreDamagedError, match=r"damaged at offset \d+: ") as error:
                store.load_prefix(damaged, caches, 2, model=MODEL)
            assert str(damaged) in str(error.value), part
            told = int(str(error.value).split("at offset ")[1].split(":")[0])
            assert told <= offset + 1, part
            for cache in caches:
                assert store._engine.lengths(int(cache.k[1]))[2] in (0, 57), part
            np.testing.assert_array_equal(attention(store, caches[1], 0), others)
        caches, n_tokens = store.load_prefix(path, caches, 2, model=MODEL)
        assert_same(store, caches, 1, store, caches, 2, n_tokens)


def test_a_row_that_was_half_loaded_is_empty(tmp_path, small_chunks):
    path = tmp_path / "prefix"
    with opened(tmp_path, 1) as store:
        caches = filled(store, (100, 200, 57))
        store.save_prefix(path, caches, 1, model=MODEL)
        data = bytearray(path.read_bytes())
        data[places(path)["chunk 2 middle"]] ^= 1
        path.write_bytes(data)
        with pytest.raises(StoreDamagedError, match=r"chunk 2, of \d+ bytes, has a wrong checksum"):
            store.load_prefix(path, caches, 2, model=MODEL)
        for cache in caches:
            assert store._engine.lengths(int(cache.k[1])) == [100, 200, 0]
        with pytest.raises(InvalidArgumentError, match="the row has 0 tokens"):
            attention(store, caches[0], 2)
        caches = [append(store, cache, 2, 40, np.random.default_rng(0)) for cache in caches]
        attention(store, caches[0], 2)


@pytest.mark.parametrize("data", [b"", b"NSP", b"something else" * 1000, b"\0" * 5000])
def test_not_ours(tmp_path, data):
    path = tmp_path / "other"
    path.write_bytes(data)
    with opened(tmp_path, 0) as store:
        caches = filled(store, LENGTHS)
        told = rf"at offset ({len(data)}: it ends there|0: it is no prefix)"
        with pytest.raises(StoreDamagedError, match=told):
            store.load_prefix(path, caches, 0, model=MODEL)


def test_bytes_after_the_end(tmp_path):
    path = tmp_path / "prefix"
    with opened(tmp_path, 0) as store:
        caches = filled(store, LENGTHS)
        store.save_prefix(path, caches, 0, model=MODEL)
        n_bytes = path.stat().st_size
        with path.open("ab") as file:
            file.write(b"x")
        with pytest.raises(StoreDamagedError, match=f"has {n_bytes + 1} bytes, not {n_bytes}"):
            store.load_prefix(path, caches, 0, model=MODEL)


def test_chunks_of_another_order(tmp_path, small_chunks):
    """Each sound in itself."""
    path = tmp_path / "prefix"
    with opened(tmp_path, 0) as store:
        caches = filled(store, (320, 0, 0))
        store.save_prefix(path, caches, 0, model=MODEL)
        at, data = places(path), path.read_bytes()
        begin, middle, end = (at[f"chunk {i} number"] for i in (0, 1, 2))
        assert middle - begin == end - middle
        path.write_bytes(data[:begin] + data[middle:end] + data[begin:middle] + data[end:])
        with pytest.raises(StoreDamagedError, match=r"has chunk 1 .* where chunk 0 "):
            store.load_prefix(path, caches, 1, model=MODEL)


# ---- devices and disks that fail ----------------------------------------------------------------


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
