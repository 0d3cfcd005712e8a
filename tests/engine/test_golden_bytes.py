"""Bytes on disk: those in golden_bytes/ were written by an earlier commit. They are read, and what
is written today is equal to them to the byte. A test that fails here tells of files that users have
and cannot load any more: a change of format needs another format number, not other goldens."""

import functools
import json
import struct

import numpy as np
import pytest
from format_reader import (
    ELEMENT_BITS,
    FLOATS,
    PAGE,
    check_superblock,
    crc32c,
    decode_head_tile,
    heads_on,
    padded,
    read_prefix,
)
from golden_cases import (
    DIGESTS,
    LARGE,
    MODEL,
    SMALL,
    STORE_FILE,
    STORE_FILE_TYPES,
    TYPES,
    elements,
    file_bytes,
    filled,
    full_tiles,
    new_caches,
    prefix_path,
    tile_digests,
)
from prefix_cases import opened, stored_tiles, tokens

import nspjax
from nspjax.errors import StoreDamagedError

N_TOKENS = SMALL.lengths[0]

every_type = pytest.mark.parametrize(("dtype", "kv_dtype"), TYPES)


@functools.cache
def golden(dtype, kv_dtype):
    return read_prefix(prefix_path(dtype, kv_dtype).read_bytes())


def decoded(prefix, layer):
    """K and V [2, token, head, channel] f32 of a saved prefix."""
    header, parts = prefix.header, []
    for tile in prefix.tiles[layer]:
        heads = [
            decode_head_tile(head, header["kv_dtype"], header["head_dim"], header["tile_tokens"])
            for head in tile
        ]
        parts.append(np.stack(heads, 2))  # [K and V, token, head, channel]
    return np.concatenate([*parts, prefix.tails[layer].astype(np.float32)], 1)


# ---- what the committed files hold --------------------------------------------------------------


@every_type
def test_the_goldens_are_what_the_rule_says(dtype, kv_dtype):
    """By a reader that has nothing of the engine: floats exactly, codes within half a step."""
    prefix = golden(dtype, kv_dtype)
    assert prefix.header["n_tokens"] == N_TOKENS
    assert (prefix.header["dtype"], prefix.header["kv_dtype"]) == (dtype, kv_dtype)
    n_stored = SMALL.full_tiles(0) * SMALL.tile_tokens
    assert 0 < n_stored < N_TOKENS
    for layer in range(SMALL.n_layers):
        given, found = elements(SMALL, layer, 0, dtype), decoded(prefix, layer)
        np.testing.assert_array_equal(found[:, n_stored:], given[:, n_stored:].astype(np.float32))
        given, found = given[:, :n_stored].astype(np.float32), found[:, :n_stored]
        if kv_dtype in FLOATS:
            np.testing.assert_array_equal(found, given.astype(FLOATS[kv_dtype]).astype(np.float32))
            continue
        by_tile = given.reshape(2, -1, SMALL.tile_tokens, *given.shape[2:])
        errors = abs(found.reshape(by_tile.shape) - by_tile)
        for x, error, axis in ((by_tile[0], errors[0], 1), (by_tile[1], errors[1], 3)):
            least, most = x.min(axis, keepdims=True), x.max(axis, keepdims=True)
            # the scale and the offset are bf16, whose rounding the scale makes up for
            largest = np.maximum(abs(least), abs(most))
            levels = 2 ** ELEMENT_BITS[kv_dtype]
            step = (most - least) / (levels - 1) + largest * 2**-8 / (levels / 2 - 1)
            assert (error <= step / 2 * (1 + 2**-6) + 1e-6 * largest).all()


# ---- prefixes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_devices", [0, 2])
@every_type
def test_a_saved_prefix_is_loaded_and_saved_to_the_byte(tmp_path, dtype, kv_dtype, n_devices):
    saved = prefix_path(dtype, kv_dtype).read_bytes()
    path, again = tmp_path / "prefix", tmp_path / "again"
    path.write_bytes(saved)  # this user's, whoever's the checkout is
    with opened(tmp_path, n_devices) as store:
        caches = new_caches(store, SMALL, dtype, kv_dtype)
        caches, n_loaded = store.load_prefix(path, caches, 1, model=MODEL)
        assert n_loaded == N_TOKENS
        store.save_prefix(again, caches, 1, model=MODEL)
        for layer, cache in enumerate(caches):
            got = tokens(store, cache, 1, N_TOKENS).view(FLOATS[dtype])
            expected = decoded(golden(dtype, kv_dtype), layer).astype(FLOATS[dtype])
            np.testing.assert_array_equal(got, expected)
    assert again.read_bytes() == saved


@every_type
def test_the_same_tokens_are_saved_as_the_same_bytes(tmp_path, dtype, kv_dtype):
    path = tmp_path / "prefix"
    with opened(tmp_path, 1) as store:
        store.save_prefix(path, filled(store, SMALL, dtype, kv_dtype), 0, model=MODEL)
    assert path.read_bytes() == prefix_path(dtype, kv_dtype).read_bytes()


# ---- stores' files ------------------------------------------------------------------------------


@pytest.mark.parametrize("n_devices", [1, 2])
@every_type
def test_a_tile_lies_on_its_device_as_in_the_prefix(tmp_path, dtype, kv_dtype, n_devices):
    """(row, head) on device (row * heads + head) % devices, head by head, padded to pages."""
    saved = golden(dtype, kv_dtype)
    with opened(tmp_path, n_devices) as store:
        caches = filled(store, SMALL, dtype, kv_dtype)
        files = file_bytes(store)
        other_row = [stored_tiles(store, c, 1, SMALL.full_tiles(1)) for c in caches]
    for device, data in enumerate(files):
        expected = []
        for layer in range(SMALL.n_layers):
            for row, tiles in enumerate((saved.tiles[layer], other_row[layer])):
                tiles = tiles.reshape(SMALL.full_tiles(row), SMALL.n_heads, -1)
                heads = heads_on(row, device, SMALL.n_heads, n_devices)
                assert heads
                expected += [padded(tile[heads].tobytes()) for tile in tiles]
        assert list(full_tiles(data, SMALL, kv_dtype, device, n_devices)) == expected


@pytest.mark.parametrize("n_devices", [1, 3])
@pytest.mark.parametrize("name", LARGE)
@every_type
def test_tiles_have_the_digests_that_they_had(tmp_path, dtype, kv_dtype, name, n_devices):
    shape = LARGE[name]
    with opened(tmp_path, n_devices, host_memory="64MiB") as store:
        filled(store, shape, dtype, kv_dtype)
        found = tile_digests(file_bytes(store), shape, kv_dtype)
    expected = json.loads(DIGESTS.read_text())[f"{name} {dtype}-as-{kv_dtype} on {n_devices}"]
    assert [len(tiles.split()) for tiles in expected] == [
        sum(shape.full_tiles(row) * bool(heads_on(row, d, shape.n_heads, n_devices))
            for row in range(len(shape.lengths)))
        for d in range(n_devices)
    ]  # fmt: skip
    assert found == expected


def test_a_file_that_an_earlier_store_left_is_taken_over(tmp_path):
    """Its superblock is known, and after it the same tokens are the same bytes."""
    left = STORE_FILE.read_bytes()
    check_superblock(left[:PAGE])
    path = tmp_path / "nspjax.kv"
    path.write_bytes(left)
    path.chmod(0o600)  # else a new file takes its place
    inode = path.stat().st_ino
    with nspjax.Store(tmp_path, host_memory="8MiB", pinned=0) as store:
        assert path.stat().st_ino == inode
        filled(store, SMALL, *STORE_FILE_TYPES)
        (data,) = file_bytes(store)
    check_superblock(data[:PAGE])
    assert data[PAGE:] == left[PAGE:]
    # when, by whom and under which number it was made are its own
    own = struct.calcsize("<8sII"), struct.calcsize("<8sIIqq4I")
    assert data[slice(*own)] != left[slice(*own)]
    assert data[own[1] : PAGE - 4] == left[own[1] : PAGE - 4]


def test_a_store_of_another_format_is_not_taken_over(tmp_path):
    """Told by its number, under a checksum that is right."""
    page = bytearray(STORE_FILE.read_bytes()[:PAGE])
    page[8:12] = struct.pack("<I", 2)
    page[-4:] = struct.pack("<I", crc32c(bytes(page[:-4])))
    path = tmp_path / "nspjax.kv"
    path.write_bytes(page)
    path.chmod(0o600)
    with pytest.raises(StoreDamagedError, match="of format 2, this is format 1"):
        nspjax.Store(tmp_path)
    assert path.read_bytes() == page
