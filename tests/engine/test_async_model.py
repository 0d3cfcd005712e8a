"""Random programs with attention in two calls, held tiles, writes behind and reads ahead: the same
bits as from a store that does one thing after another."""

import collections

import numpy as np
import pytest
from engine_oracle import int32, normal

N_STEPS = 1000
ROWS, CAPACITY, HEADS, GROUP, D, TILE, LAYERS = 4, 300, 2, 2, 32, 16, 2

KINDS = {
    "memory": {"n_directories": 0},
    "uring": {"n_directories": 1, "io": "uring"},
    "pread": {"n_directories": 1, "io": "pread", "threads": 1},
    "pinned": {"n_directories": 1, "pinned_bytes": 100_000},
    "little_memory": {"n_directories": 1, "host_memory": 1 << 20},
}


class Both:
    """The same program on two stores: `store` as it likes, `plain` one thing after another.

    Where tiles are converted when they are written (int8), `plain` holds and writes them at the
    same places in the program; it waits for everything at once.
    """

    def __init__(self, store, plain, kv_dtype):
        self.stores = (store, plain)
        self.converts = kv_dtype == "int8"
        self.caches = [
            s.create_caches(LAYERS, ROWS, CAPACITY, HEADS, D, "f32", TILE, kv_dtype)
            for s in self.stores
        ]
        self.versions = [0] * LAYERS
        self.started = collections.deque()

    def append(self, layer, k, v, rows, start, n_new, hold):
        for s, caches, holds in zip(self.stores, self.caches, (hold, hold and self.converts),
                                    strict=True):  # fmt: skip
            version = s.append(
                caches[layer], self.versions[layer], k, v, rows, start, n_new, hold=holds
            )
        self.versions[layer] = version

    def start(self, layer, q, rows, lengths, **options):
        store, plain = self.stores
        handles = [(caches[layer], self.versions[layer]) for caches in self.caches]
        args = (q, rows, np.maximum(lengths - q.shape[1], 0), lengths, 0.2)
        ticket = store.attend_start(*handles[0], *args, **options)
        self.started.append((ticket, plain.attend(*handles[1], *args)))

    def wait(self, index):
        ticket, expected = self.started[index]
        del self.started[index]
        for got, same in zip(self.stores[0].attend_wait(ticket), expected, strict=True):
            np.testing.assert_array_equal(got, same)

    def writeback(self, layer, interval, exclusive):
        store, plain = self.stores
        store.writeback(self.caches[0][layer], interval, exclusive)
        if self.converts:
            plain.writeback(self.caches[1][layer], interval, True)
            plain.flush()

    def share(self, layer, source, rows, n_tokens):
        for s, caches in zip(self.stores, self.caches, strict=True):
            version = s.share_prefix(caches[layer], self.versions[layer], source, rows, n_tokens)
        self.versions[layer] = version

    def take(self, layer, order, lengths):
        for s, caches in zip(self.stores, self.caches, strict=True):
            version = s.take_rows(caches[layer], self.versions[layer], order, lengths)
        self.versions[layer] = version

    def read(self, layer, row, begin, end):
        results = [
            s.read(caches[layer], row, begin, end)
            for s, caches in zip(self.stores, self.caches, strict=True)
        ]
        for got, same in zip(*results, strict=True):
            np.testing.assert_array_equal(got, same)


@pytest.mark.parametrize("kv_dtype", ["f32", "int8"])
@pytest.mark.parametrize("kind", KINDS)
def test_random_programs(open_store, kind, kv_dtype):
    rng = np.random.default_rng([len(kind), len(kv_dtype)])
    host_memory = KINDS[kind].get("host_memory", 4 << 20)
    if host_memory < 4 << 20 and kv_dtype == "int8":
        pytest.skip("where memory ends, tiles are written, and converted, earlier")
    store = open_store(**{"host_memory": host_memory} | KINDS[kind])
    both = Both(store, open_store(0, host_memory=host_memory), kv_dtype)
    lengths = np.zeros((LAYERS, ROWS), np.int32)
    for _ in range(N_STEPS):
        layer = int(rng.integers(LAYERS))
        length = lengths[layer]
        rows = int32(rng.permutation(ROWS)[: rng.integers(1, ROWS + 1)])
        match rng.choice(["append", "start", "wait", "writeback", "prefetch", "rare"],
                         p=[0.39, 0.2, 0.18, 0.1, 0.08, 0.05]):  # fmt: skip
            case "append":
                n = int(rng.choice([1, 1, 1, 2, 15, 40]))
                cut = rng.choice([0, 0, 0, 0, 0, 0, 3, 20, 200], len(rows))
                start = np.maximum(length[rows] - cut, 0)
                start = int32(np.where(start + n > CAPACITY, rng.integers(0, 60), start))
                n_new = int32(rng.integers(0, n + 1, len(rows)))
                k, v = (normal(rng, (len(rows), n, HEADS, D)) for _ in "kv")
                both.append(layer, k, v, rows, start, n_new, bool(rng.random() < 0.8))
                length[rows] = np.where(n_new > 0, start + n_new, length[rows])
            case "start":
                seen = int32([rng.integers(0, length[row] + 1) for row in rows])
                q = normal(rng, (len(rows), int(rng.choice([1, 1, 3])), HEADS * GROUP, D))
                both.start(layer, q, rows, seen, read_ahead=bool(rng.random() < 0.5))
            case "wait" if both.started:
                both.wait(int(rng.integers(len(both.started))))
            case "writeback":
                both.writeback(
                    layer, int(rng.choice([1, TILE, 4 * TILE])), bool(rng.random() < 0.5)
                )
            case "prefetch":
                store.prefetch(both.caches[0][layer], rows, length[rows], 1 << 16)
            case "rare":
                source = int(rng.integers(ROWS))
                match rng.integers(4):
                    case 0:
                        others = int32([row for row in rows if row != source])
                        n_tokens = int(rng.integers(0, length[source] + 1))
                        both.share(layer, source, others, n_tokens)
                        length[others] = n_tokens
                    case 1:
                        begin, end = np.sort(rng.integers(0, length[source] + 1, 2)).tolist()
                        both.read(layer, source, begin, end)
                    case 2:
                        store.flush()
                    case 3:
                        order = int32(rng.integers(0, ROWS, ROWS))
                        both.take(layer, order, length)
                        length[:] = length[order]
    while both.started:
        both.wait(0)
    for layer in range(LAYERS):
        assert store.lengths(both.caches[0][layer]) == lengths[layer].tolist()
        for row in range(ROWS):
            both.read(layer, row, 0, int(lengths[layer, row]))
    assert store.stats()["bytes_written"] > 0
