"""Stores of every kind, closed after the test."""

import pytest

from nspjax import _engine
from nspjax.runtime import prefix_file

HOST_MEMORY = 8 << 20


@pytest.fixture
def open_store(tmp_path):
    """open_store(n_directories, **options): n fresh directories, 0 is "memory:".

    No tiles are pinned in host memory unless the test says so: caches this small would all be.
    """
    stores = []

    def open_one(n_directories=0, host_memory=HOST_MEMORY, **options):
        paths = []
        for _ in range(n_directories):
            paths.append(tmp_path / f"device{len(list(tmp_path.iterdir()))}")
            paths[-1].mkdir()
        options = {"pinned_bytes": 0} | options
        devices = [str(path) for path in paths] or ["memory:"]
        stores.append(_engine.Store(devices, host_memory, **options))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


@pytest.fixture
def small_chunks(monkeypatch):
    """Several chunks of tiles for each layer, also of prefixes that are short."""
    monkeypatch.setattr(prefix_file, "CHUNK_BYTES", 50_000)
