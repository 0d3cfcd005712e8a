"""How fast a store's devices, the link to them and the compute device are, measured."""

from __future__ import annotations

import dataclasses
import math
import os
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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
    """A machine, as far as a schedule depends on it. All devices count together."""

    device_bytes_per_s: float
    """reads"""
    link_bytes_per_s: float
    """between the devices and the compute device"""
    compute_flops: float
    """floating-point operations a second of the compute device"""
    attend_bytes_per_s: float = math.inf
    """K and V that the compute device attends over, a second, in a decode step"""
    processors_apart: bool = True
    """whether attention at the devices leaves the compute device alone, and not, as on a CPU whose
    cores do both, takes its time"""
    write_bytes_per_s: float | None = None
    """writes; None: not known"""
    memory_bytes_per_s: float = math.inf
    """of the compute device's memory, where products find their weights"""
    read_ahead_bytes: float = math.inf
    """room for what is read before it is asked for"""


def measure_rates(store: Store) -> Rates | None:
    """The rates of a store and of the device that JAX computes on; takes up to a second.

    A device's reads: its rate limit, or what its drive's profile says, or the rate at which the
    host's memory is read. Its writes: its rate limit, or the profile's; those of a device in memory
    are not known. The link: its rate limit, or the host's memory: it is not there then. Simulated
    devices are taken for ones with processors of their own.

    None, with a warning, where a drive could not be measured, as on a busy machine: it is measured
    again next time.
    """
    limit = store.rate_limit
    memory = _memory_bytes_per_s()
    reads: list[float] = []
    writes: list[float | None] = []
    for device in store.devices():
        read = limit.read_bytes_per_s if limit else 0.0
        write = (limit.write_bytes_per_s if limit else 0.0) or None
        if not read and device.path:
            drive = _drive_profile(device.path)
            if drive is None:
                return None
            read = drive["read_gb_per_s"] * 1e9
            write = write or drive["write_gb_per_s"] * 1e9
        reads.append(read or memory)
        writes.append(write)
    known_writes = [rate for rate in writes if rate is not None]
    return Rates(
        device_bytes_per_s=sum(reads),
        link_bytes_per_s=(limit.link_bytes_per_s if limit else 0.0) or memory,
        compute_flops=_matmul_flops(),
        attend_bytes_per_s=_attend_bytes_per_s(),
        processors_apart=limit is not None,
        write_bytes_per_s=sum(known_writes) if len(known_writes) == len(writes) else None,
        memory_bytes_per_s=memory,
        read_ahead_bytes=store.stats().staging_bytes,
    )


def _drive_profile(file: str) -> dict[str, Any] | None:
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
    return profile


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
