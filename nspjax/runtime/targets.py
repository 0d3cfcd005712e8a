"""The registration of the engine's custom-call targets with XLA."""

from __future__ import annotations

import ctypes
import functools
import os
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
    os.register_at_fork(after_in_child=functools.partial(_never_destroy, device.client))


def _never_destroy(client: Any) -> None:
    """JAX destroys its client when a process exits, which waits for its threads: a fork's child,
    which has none of them, would hang or crash there."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))
