"""The registration of the engine's custom-call targets with XLA."""

from __future__ import annotations

import functools

import jax


@functools.cache
def register_targets() -> None:
    """Make the engine's handlers known to XLA's CPU backend, once.

    The backend is created first: handlers registered before it exists are not seen by it.
    """
    from nspjax import _engine

    jax.devices("cpu")
    for name, handler in _engine.registrations().items():
        jax.ffi.register_ffi_target(name, handler, platform="cpu")
