"""Saved prefixes that are cut, damaged or not ours: refused with where, and nothing half loaded."""

import numpy as np
import pytest
from prefix_cases import (
    MODEL,
    append,
    assert_same,
    attention,
    filled,
    opened,
)
from prefix_parts import LENGTHS, split

from nspjax.errors import (
    InvalidArgumentError,
    StoreDamagedError,
)
from nspjax.runtime.prefix_file import CHUNK_FRAME, HEADER_FRAME, MAGIC, PrefixHeader, chunks


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
