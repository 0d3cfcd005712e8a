"""Bytes of a store's own file that something else changes while the store is open."""

import contextlib
import os

import numpy as np
import pytest
from engine_oracle import append, bits, int32, normal

from nspjax import _engine
from nspjax.errors import StorageIOError, StoreDamagedError

PAGE = 4096
ROWS, N_TILES, TILE, HEADS, D = 2, 5, 16, 3, 24
N_TOKENS = N_TILES * TILE + 7
VECTOR_BYTES = D * 4
HEAD_BYTES = 2 * TILE * VECTOR_BYTES


def n_heads_on(row: int, device: int) -> int:
    """Heads take turns on the devices, over all rows."""
    return sum((row * HEADS + head) % 2 == device for head in range(HEADS))


class Damaged:
    """A store of two devices and one cache; each row's tokens are random ones of its own."""

    def __init__(self, store) -> None:
        self.store = store
        (self.cache,) = store.create_caches(1, ROWS, 128, HEADS, D, "f32", TILE)
        self.version = 0
        self.tokens = [self.write(row, seed=row) for row in range(ROWS)]
        self.expected = [self.attend(row) for row in range(ROWS)]
        self.paths = [device["path"] for device in store.devices()]
        self.tile_bytes = {
            (row, device): -(-n_heads_on(row, device) * HEAD_BYTES // PAGE) * PAGE
            for row in range(ROWS)
            for device in range(2)
        }

    def write(self, row: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        k, v = (normal(rng, (1, N_TOKENS, HEADS, D)) for _ in "kv")
        self.version = append(self.store, self.cache, self.version, k, v, [row], [0], [N_TOKENS])
        self.store.flush()
        return np.concatenate([k, v])

    def attend(self, row: int) -> np.ndarray:
        q = normal(np.random.default_rng(9), (1, 1, HEADS, D))
        where = (int32([n]) for n in (row, N_TOKENS, N_TOKENS))
        return self.store.attend(self.cache, self.version, q, *where, 0.2)[0]

    def read(self, row: int) -> np.ndarray:
        return np.stack(self.store.read(self.cache, row, 0, N_TOKENS))

    def tile_offset(self, row: int, device: int, tile: int) -> int:
        """In the file, from the layout: rows one after another, tiles in them."""
        capacity = 128 // TILE
        before = sum(capacity * self.tile_bytes[r, device] for r in range(row))
        return PAGE + before + tile * self.tile_bytes[row, device]

    def assert_sound(self, row: int) -> None:
        np.testing.assert_array_equal(self.attend(row), self.expected[row])
        np.testing.assert_array_equal(self.read(row), bits(self.tokens[row]))


@pytest.fixture
def damaged(open_store):
    return lambda **options: Damaged(open_store(2, **options))


@contextlib.contextmanager
def writable(path):
    """Buffered; on the medium at the end, where O_DIRECT reads find it."""
    with open(path, "r+b", buffering=0) as file:
        yield file
        os.fsync(file.fileno())


def flip(path, offset: int, bit: int = 0) -> None:
    with writable(path) as file:
        (byte,) = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([byte ^ (1 << bit)]), offset)


# in a tile of row 0 on device 0, which has two heads there and then padding
PARTS = {
    "k, first byte": 0,
    "k": 5 * VECTOR_BYTES + 3,
    "k, last byte": HEAD_BYTES // 2 - 1,
    "v, first byte": HEAD_BYTES // 2,
    "v": HEAD_BYTES - 2 * VECTOR_BYTES + 1,
    "second head": HEAD_BYTES + 100,
    "second head, last byte": 2 * HEAD_BYTES - 1,
    "padding, first byte": 2 * HEAD_BYTES,
    "padding, last byte": None,
}


@pytest.mark.parametrize("tile", [0, N_TILES // 2, N_TILES - 1])
@pytest.mark.parametrize("part", PARTS)
def test_a_flipped_bit(damaged, part, tile):
    """On each device: attention and reads say which file and where; the other row is right; the row
    is right again when it is written anew."""
    case = damaged()
    for device, path in enumerate(case.paths):
        tile_bytes = case.tile_bytes[0, device]
        at = PARTS[part] if PARTS[part] is not None else tile_bytes - 1
        if at >= tile_bytes:
            at -= HEAD_BYTES  # device 1 has one head of row 0
        begin = case.tile_offset(0, device, tile)
        flip(path, begin + at, bit=(at + tile) % 8)
        told = rf"{tile_bytes} bytes at offset {begin} of {path} is damaged: its checksum"
        for _ in range(2):
            with pytest.raises(StoreDamagedError, match=told):
                case.attend(0)
            with pytest.raises(StoreDamagedError, match=told):
                case.read(0)
            case.assert_sound(1)
        case.tokens[0] = case.write(0, seed=0)
        for row in range(ROWS):
            case.assert_sound(row)


def test_without_checksums_nothing_is_said(damaged):
    """As documented: then damage is the caller's to find."""
    case = damaged(checksums=False)
    flip(case.paths[0], case.tile_offset(0, 0, 1) + 3, bit=6)
    assert not np.array_equal(case.attend(0), case.expected[0])
    assert not np.array_equal(case.read(0), bits(case.tokens[0]))
    case.assert_sound(1)


def test_a_cut_in_a_damaged_tile(damaged):
    """The tile would go back to memory: the row stays as it was, and can still be written anew."""
    case = damaged()
    flip(case.paths[1], case.tile_offset(0, 1, 2) + 1)
    new = normal(np.random.default_rng(3), (1, 1, HEADS, D))
    with pytest.raises(StoreDamagedError, match="is damaged"):
        append(case.store, case.cache, case.version, new, new, [0], [2 * TILE + 3], [1])
    assert case.store.lengths(case.cache) == [N_TOKENS] * ROWS
    case.version = append(
        case.store, case.cache, case.version, new, new, [0], [2 * TILE], [1]
    )  # a cut before the damaged tile needs nothing of it
    assert case.store.lengths(case.cache)[0] == 2 * TILE + 1
    case.tokens[0] = case.write(0, seed=0)
    case.assert_sound(0)


def test_a_shared_tile_that_is_damaged(open_store):
    """All rows that have it are refused, others not; each is sound when written anew."""
    store = open_store(1)
    (cache,) = store.create_caches(1, 3, 128, HEADS, D, "f32", TILE)
    rng = np.random.default_rng(0)
    k, v = (normal(rng, (1, N_TOKENS, HEADS, D)) for _ in "kv")
    version = append(store, cache, 0, k, v, [0], [0], [N_TOKENS])
    version = append(store, cache, version, k, v, [2], [0], [N_TOKENS])
    version = store.share_prefix(cache, version, 0, int32([1]), 3 * TILE)
    store.flush()
    flip(store.devices()[0]["path"], PAGE + 7)
    for row in (0, 1):
        with pytest.raises(StoreDamagedError, match=f"at offset {PAGE} of"):
            store.read(cache, row, 0, 2 * TILE)
    np.testing.assert_array_equal(store.read(cache, 2, 0, N_TOKENS)[0], k[0])
    for row in (1, 0):
        version = append(store, cache, version, k, v, [row], [0], [N_TOKENS])
        store.flush()
        np.testing.assert_array_equal(store.read(cache, row, 0, N_TOKENS)[1], v[0])


# ---- the superblock -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "offset", "told"),
    [
        ("magic", 3, "is not an nspjax store"),
        ("version", 8, "checksum is wrong"),
        ("page size", 12, "checksum is wrong"),
        ("owner", 24, "checksum is wrong"),
        ("uuid", 40, "checksum is wrong"),
        ("unused", 2000, "checksum is wrong"),
        ("checksum", 4093, "checksum is wrong"),
    ],
)
def test_a_flipped_bit_in_the_superblock_of_an_open_store(tmp_path, part, offset, told):
    """The store that is open goes on; the next one is refused, and the file left as it is."""
    store = _engine.Store([str(tmp_path)], 8 << 20, pinned_bytes=0)
    (cache,) = store.create_caches(1, 1, 128, HEADS, D, "f32", TILE)
    k = normal(np.random.default_rng(0), (1, 100, HEADS, D))
    version = append(store, cache, 0, k, k, [0], [0], [50])
    store.flush()
    path = tmp_path / "nspjax.kv"
    flip(path, offset)
    version = append(store, cache, version, k[:, 50:], k[:, 50:], [0], [50], [50])
    store.flush()
    np.testing.assert_array_equal(store.read(cache, 0, 0, 100)[0], k[0])
    store.close()
    left = path.read_bytes()
    assert len(left) == PAGE
    with pytest.raises(StoreDamagedError, match=rf"{path} .*{told}"):
        _engine.Store([str(tmp_path)], 8 << 20)
    assert path.read_bytes() == left
    flip(path, offset)
    _engine.Store([str(tmp_path)], 8 << 20).close()


# ---- whole pages, and the file's end ------------------------------------------------------------


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("what", ["zeros", "another tile"])
def test_pages_written_by_something_else(damaged, what, direct):
    """Also a sound tile in the wrong place: its checksum is another's."""
    case = damaged()
    begin, other = (case.tile_offset(0, 0, tile) for tile in (3, 1))
    n_bytes = case.tile_bytes[0, 0]
    flags = os.O_RDWR | (os.O_DIRECT if direct else 0)
    fd = os.open(case.paths[0], flags)
    try:
        # a mapping is page-aligned, as O_DIRECT wants it
        import mmap

        with mmap.mmap(-1, n_bytes) as page:
            if what == "another tile":
                os.preadv(fd, [page], other)
            os.pwritev(fd, [page], begin)
            os.fsync(fd)
    finally:
        os.close(fd)
    with pytest.raises(StoreDamagedError, match=f"at offset {begin} of"):
        case.attend(0)
    case.assert_sound(1)
    case.tokens[0] = case.write(0, seed=0)
    case.assert_sound(0)


@pytest.mark.parametrize("io", ["uring", "pread"])
@pytest.mark.parametrize("left_bytes", [0, 100, PAGE, "first tile", "middle"])
def test_truncation(damaged, io, left_bytes):
    """What is missing is told by path and offset; what is there is right, and rows written anew are
    sound, also in what was cut away."""
    case = damaged(io=io)
    n_bytes = case.tile_bytes[0, 0]
    left = {"first tile": PAGE + n_bytes, "middle": case.tile_offset(1, 0, 2) + 17}
    os.truncate(case.paths[0], left.get(left_bytes, left_bytes))
    told = rf"at offset \d+ of {case.paths[0]} (failed: the file ends there|is damaged)"
    for row in range(ROWS):
        if left_bytes == "middle" and row == 0:
            case.assert_sound(row)
            continue
        for call in (case.attend, case.read):
            with pytest.raises((StorageIOError, StoreDamagedError), match=told):
                call(row)
    for row in reversed(range(ROWS)):
        case.tokens[row] = case.write(row, seed=row)
        case.assert_sound(row)
    for row in range(ROWS):
        case.assert_sound(row)


def test_bytes_after_the_end_are_nobodys(damaged):
    case = damaged()
    with writable(case.paths[0]) as file:
        file.seek(0, os.SEEK_END)
        file.write(b"something else" * 1000)
    for row in range(ROWS):
        case.assert_sound(row)
    (more,) = case.store.create_caches(1, 4, 128, HEADS, D, "f32", TILE)
    k = normal(np.random.default_rng(5), (1, 128, HEADS, D))
    append(case.store, more, 0, k, k, [3], [0], [128])
    case.store.flush()
    np.testing.assert_array_equal(case.store.read(more, 3, 0, 128)[0], k[0])


def test_a_file_that_is_removed(damaged):
    """The store has it open and goes on; the room is given back when it is closed."""
    case = damaged()
    os.unlink(case.paths[0])
    for row in range(ROWS):
        case.tokens[row] = case.write(row, seed=row + 10)
        np.testing.assert_array_equal(case.read(row), bits(case.tokens[row]))
    case.store.close()
    assert not os.path.exists(case.paths[0])
