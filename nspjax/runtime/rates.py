"""How fast a store's devices, the link to them and the compute device are, measured."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from nspjax.runtime.store import Store

_MATMUL_SIZE = 1024
_MEMORY_BYTES = 64 << 20
_REPEATS = 3


@dataclasses.dataclass(frozen=True)
class Rates:
    """What a schedule weighs against each other.

    device_bytes_per_s: reads of all devices together; link_bytes_per_s: between them and the
    compute device; compute_flops: floating-point operations a second of the compute device;
    processors_apart: whether attention at the devices leaves the compute device alone, and not, as
    on a CPU whose cores do both, takes its time.
    """

    device_bytes_per_s: float
    link_bytes_per_s: float
    compute_flops: float
    processors_apart: bool = True


def measure_rates(store: Store) -> Rates:
    """The rates of a store and of the device that JAX computes on; takes up to a second.

    A device: its rate limit, or what its drive's profile says, or the rate at which the host's
    memory is read. The link: its rate limit, or the host's memory: it is not there then. Simulated
    devices are taken for ones with processors of their own.
    """
    limit = store.rate_limit
    memory = _memory_bytes_per_s()
    of_devices = [
        (limit.read_bytes_per_s if limit else 0.0) or _drive_bytes_per_s(device.path) or memory
        for device in store.devices()
    ]
    link = (limit.link_bytes_per_s if limit else 0.0) or memory
    return Rates(sum(of_devices), link, _matmul_flops(), processors_apart=limit is not None)


def _drive_bytes_per_s(directory: str) -> float:
    """As kept beside the store, or measured and kept; 0 for memory."""
    from nspjax import _engine

    return _engine.probe(directory)["read_gb_per_s"] * 1e9 if directory else 0.0


def _memory_bytes_per_s() -> float:
    from nspjax import _engine

    n_threads = len(os.sched_getaffinity(0))
    return _engine.measure_read_bandwidth(_MEMORY_BYTES, n_threads, _REPEATS) * 1e9


def _matmul_flops() -> float:
    """Of one float32 matmul: large enough that its operands stay in the caches."""
    x = jnp.ones((_MATMUL_SIZE, _MATMUL_SIZE))
    multiply = jax.jit(jnp.matmul)
    multiply(x, x).block_until_ready()  # compiles
    times_s = []
    for _ in range(_REPEATS):
        begin_s = time.perf_counter()
        multiply(x, x).block_until_ready()
        times_s.append(time.perf_counter() - begin_s)
    return 2 * _MATMUL_SIZE**3 / min(times_s)
