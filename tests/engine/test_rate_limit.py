"""`RateLimit`: bandwidths as people write them."""

import dataclasses
import math

import pytest

from nspjax.errors import InvalidArgumentError
from nspjax.runtime.rate_limit import RateLimit, parse_rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("3GB/s", 3e9),
        ("3 GB/s", 3e9),
        ("1.5gb/s", 1.5e9),
        ("512MiB/s", 512 * 2**20),
        (" 800MBps ", 8e8),
        ("5000/s", 5000),
        (3e9, 3e9),
        (1000, 1000),
    ],
)
def test_rates(text, rate):
    assert parse_rate(text) == rate
    assert RateLimit(text).read_bytes_per_s == rate


BAD_TEXTS = ["", "fast", "3GB", "/s", "GB/s", "-3GB/s", "0GB/s", "3Gbit/s", "1B/s", b"3GB/s"]
BAD_NUMBERS = [0, -1, 999, math.nan, math.inf, True, [3000]]


@pytest.mark.parametrize("bad", [*BAD_TEXTS, *BAD_NUMBERS])
@pytest.mark.parametrize("name", ["device_read", "device_write", "link"])
def test_what_is_no_rate(name, bad):
    with pytest.raises(InvalidArgumentError, match=f"^{name}: .*rate"):
        RateLimit(**{"device_read": None, name: bad})


def test_no_limit():
    limit = RateLimit(None)
    assert (limit.read_bytes_per_s, limit.write_bytes_per_s, limit.link_bytes_per_s) == (0, 0, 0)


def test_each_its_own():
    limit = RateLimit("7GB/s", device_write="5GB/s", link="16GB/s", kv_over_link=True)
    assert limit.read_bytes_per_s == 7e9
    assert limit.write_bytes_per_s == 5e9
    assert limit.link_bytes_per_s == 16e9
    with pytest.raises(dataclasses.FrozenInstanceError):
        limit.link = None


def test_kv_over_no_link():
    with pytest.raises(InvalidArgumentError, match="kv_over_link needs"):
        RateLimit("3GB/s", kv_over_link=True)
