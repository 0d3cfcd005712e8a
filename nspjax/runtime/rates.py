"""How fast a store's devices, the link to them and the compute device are, measured."""

from __future__ import annotations

import dataclasses
import os
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from nspjax.message_text import printable
from nspjax.ops.blockwise import blockwise_attention

if TYPE_CHECKING:
    from nspjax.runtime.store import Store

_MATMUL_SIZE = 1024
_MEMORY_BYTES = 64 << 20
_REPEATS = 3
_ATTENDED = (8, 512, 8, 64)
"""rows, tokens, KV heads, channels"""


@dataclasses.dataclass(frozen=True)
class Rates:
    """What a schedule weighs against each other.

    device_bytes_per_s: reads of all devices together; link_bytes_per_s: between them and the
    compute device; compute_flops: floating-point operations a second of the compute device;
    attend_bytes_per_s: K and V that the compute device attends over, a second, in a decode step;
    processors_apart: whether attention at the devices takes no time of the compute device's; on a
    CPU, whose cores do both, it does.
    """

    device_bytes_per_s: float
    link_bytes_per_s: float
    compute_flops: float
    attend_bytes_per_s: float = float("inf")
    processors_apart: bool = True


def measure_rates(store: Store) -> Rates | None:
    """The rates of a store and of the device that JAX computes on; takes up to a second.

    A device: its rate limit, or what its drive's profile says, or the rate at which the host's
    memory is read. The link: its rate limit, or the host's memory: it is not there then. Simulated
    devices are taken for ones with processors of their own.

    None, with a warning, where a drive could not be measured, as on a busy machine: it is measured
    again next time.
    """
    limit, devices = store.rate_limit, store.devices()
    memory = _memory_bytes_per_s()
    of_devices: list[float] = []
    for device in devices:
        rate = limit.read_bytes_per_s if limit else 0.0
        if not rate:
            rate = _drive_bytes_per_s(device.path) if device.path else memory
        if rate is None:
            return None
        of_devices.append(rate)
    link = (limit.link_bytes_per_s if limit else 0.0) or memory
    return Rates(
        sum(of_devices),
        link,
        _matmul_flops(),
        _attend_bytes_per_s(),
        processors_apart=limit is not None,
    )


def _drive_bytes_per_s(file: str) -> float | None:
    """As kept beside the store's file, or measured and kept; None, with a warning: not known."""
    from nspjax import _engine

    directory = os.path.dirname(file)
    profile = _engine.probe(directory)
    if profile["read_gb_per_s"] is None:
        warnings.warn(
            f"how fast {printable(directory)} is read is not known: {profile['note']}; what would "
            "be decided by it (auto) is left as it is, and it is measured again next time",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return profile["read_gb_per_s"] * 1e9


def _memory_bytes_per_s() -> float:
    from nspjax import _engine

    n_threads = len(os.sched_getaffinity(0))
    return _engine.measure_read_bandwidth(_MEMORY_BYTES, n_threads, _REPEATS) * 1e9


def _matmul_flops() -> float:
    """Of one float32 matmul: large enough that its operands stay in the caches."""
    x = jnp.ones((_MATMUL_SIZE, _MATMUL_SIZE))
    return 2 * _MATMUL_SIZE**3 / _seconds(jnp.matmul, x, x)


def _attend_bytes_per_s() -> float:
    """Of one decode step's attention over bfloat16 K and V, as JAX computes it."""
    rows, tokens, heads, head_dim = _ATTENDED
    k = jnp.ones((rows, tokens, heads, head_dim), jnp.bfloat16)
    q, end = k[:, :1], jnp.full((rows,), tokens, jnp.int32)

    def attend(q: jax.Array, k: jax.Array, end: jax.Array) -> jax.Array:
        return blockwise_attention(q, k, k, None, end - 1, end, scale=1.0)[0]

    return 2 * k.nbytes / _seconds(attend, q, k, end)


def _seconds(fn: Callable[..., jax.Array], *operands: jax.Array) -> float:
    """The shortest of some runs."""
    compiled = jax.jit(fn)
    compiled(*operands).block_until_ready()
    times_s = []
    for _ in range(_REPEATS):
        begin_s = time.perf_counter()
        compiled(*operands).block_until_ready()
        times_s.append(time.perf_counter() - begin_s)
    return min(times_s)
