"""The registration of the engine's custom-call targets with XLA."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from typing import Any

import jax


@functools.cache
def register_targets() -> None:
    """Make the engine's handlers known to XLA's CPU backend, once.

    The backend is created first: handlers registered before it exists are not seen by it.
    """
    from nspjax import _engine

    (device, *_) = jax.devices("cpu")
    for name, handler in _engine.registrations().items():
        jax.ffi.register_ffi_target(name, handler, platform="cpu")
    os.register_at_fork(after_in_child=functools.partial(_keep_pools, device.client))


def _keep_pools(client: Any) -> None:
    """In a forked child, never destroy JAX's objects that have thread pools: their end waits for
    threads that the child does not have, and it would hang or crash as it exits."""
    lowering = sys.modules.get("jax._src.interpreters.mlir")
    for owner in (client, getattr(lowering, "global_thread_pool", None)):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))
