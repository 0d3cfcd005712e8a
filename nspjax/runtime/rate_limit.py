"""Simulated bandwidths: how fast a store's devices, and the link to them, pretend to be."""

from __future__ import annotations

import dataclasses
import math
import re

from nspjax.byte_size import parse_bytes
from nspjax.errors import InvalidArgumentError

_RATE = re.compile(r"(.*)(?:/|p)s", re.IGNORECASE)
_LEAST_BYTES_PER_S = 1000
"""Slower ones would overflow the engine's clock."""


@dataclasses.dataclass(frozen=True)
class RateLimit:
    """The bandwidths of a store's hardware, for hardware that is not there; None is no limit.

    The KV cache really is read and written, but what a device delivers comes no earlier than at
    these rates. What is measured with it is a simulation and should be called one.

    Rates are bytes a second, or texts such as "3GB/s", "800 MiB/s".

    Args:
      device_read: of each device.
      device_write: of each device.
      link: between the host and all devices together.
      kv_over_link: False: attention is computed beside the devices, so that queries, results and
        appended tokens cross the link. True: it is computed on the host, and every key and value
        that attention reads crosses the link; needs `link`.

    Raises:
      InvalidArgumentError: no rate, or one of less than 1000 bytes a second.
    """

    device_read: str | float | None
    device_write: str | float | None = None
    link: str | float | None = None
    kv_over_link: bool = False

    def __post_init__(self) -> None:
        for name in ("device_read", "device_write", "link"):
            _bytes_per_s(name, getattr(self, name))
        if self.kv_over_link and self.link is None:
            raise InvalidArgumentError(
                'kv_over_link needs the rate of the link: give for example link="8GB/s"'
            )

    @property
    def read_bytes_per_s(self) -> float:
        """What the engine takes: 0 is no limit."""
        return _bytes_per_s("device_read", self.device_read)

    @property
    def write_bytes_per_s(self) -> float:
        return _bytes_per_s("device_write", self.device_write)

    @property
    def link_bytes_per_s(self) -> float:
        return _bytes_per_s("link", self.link)


def parse_rate(rate: str | float) -> float:
    """Bytes a second in `rate`: a number, or a size with "/s" or "ps" after it.

    Raises:
      InvalidArgumentError: not a rate, or less than 1000 bytes a second.
    """
    if isinstance(rate, bool) or not isinstance(rate, str | int | float):
        raise InvalidArgumentError(f'{rate!r} is no rate: write for example "3GB/s"')
    if isinstance(rate, str):
        found = _RATE.fullmatch(rate.strip())
        if found is None:
            raise InvalidArgumentError(f'{rate!r} is no rate: write for example "3GB/s"')
        try:
            rate = parse_bytes(found[1])
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"in the rate {rate!r}: {error}") from error
    if not math.isfinite(rate) or rate < _LEAST_BYTES_PER_S:
        raise InvalidArgumentError(
            f"a rate must be finite and at least {_LEAST_BYTES_PER_S} bytes a second, got {rate!r}"
        )
    return float(rate)


def _bytes_per_s(name: str, rate: str | float | None) -> float:
    if rate is None:
        return 0.0
    try:
        return parse_rate(rate)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{name}: {error}") from error
