"""`_engine.crc32c`: CRC-32C of whatever has a buffer."""

import mmap

import numpy as np
import pytest

from nspjax import _engine


def test_known_answers():
    assert _engine.crc32c(b"123456789") == 0xE3069283
    assert _engine.crc32c(bytes(32)) == 0x8A9136AA
    assert _engine.crc32c(b"") == 0


def test_any_buffer():
    data = np.random.default_rng(0).integers(0, 256, 100_000, np.uint8)
    expected = _engine.crc32c(data.tobytes())
    assert _engine.crc32c(data) == expected
    assert _engine.crc32c(bytearray(data)) == expected
    assert _engine.crc32c(memoryview(data)) == expected
    assert _engine.crc32c(data.view(np.float32)) == expected
    with mmap.mmap(-1, data.size) as mapped:
        mapped[:] = data.tobytes()
        assert _engine.crc32c(mapped) == expected
    assert _engine.crc32c(data[1:]) != expected


def test_what_is_no_buffer():
    with pytest.raises(TypeError):
        _engine.crc32c("text")
    with pytest.raises((BufferError, ValueError)):
        _engine.crc32c(np.zeros(10)[::2])
