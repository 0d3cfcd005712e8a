"""JAX's settings while our programs are traced and run: the defaults, whatever the caller's are.

Settings such as `jax_enable_x64` or `jax_numpy_rank_promotion` say how a program means its text.
A user's are for the user's programs; an answer does not depend on them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

from nspjax.errors import InvalidArgumentError

_PINNED = {
    "allow_f16_reductions": True,
    "check_tracer_leaks": False,
    "debug_infs": False,
    "debug_key_reuse": False,
    "debug_nans": False,
    "default_matmul_precision": None,
    "default_prng_impl": "threefry2x32",
    "disable_jit": False,
    "enable_checks": False,
    "enable_custom_prng": False,
    "enable_x64": False,
    "legacy_prng_key": "allow",
    "no_execution": False,
    "no_tracing": False,
    "numpy_dtype_promotion": "standard",
    "numpy_rank_promotion": "allow",
    "softmax_custom_jvp": False,
    "threefry_partitionable": True,
    "transfer_guard": "allow",
}
"""Context manager of `jax` -> its argument."""

_REFUSED = {
    "eager_constant_folding": False,
    "jax_error_checking_behavior_divide": "ignore",
    "jax_error_checking_behavior_nan": "ignore",
    "jax_error_checking_behavior_oob": "ignore",
}
"""Settings under which the programs cannot be traced, and that have no context manager: the
values under which they can."""


def check_settings() -> None:
    """Before anything is traced.

    Raises:
      InvalidArgumentError: a setting that cannot be pinned has another value than is needed, or
        JAX has no device under its settings.
    """
    for name, needed in _REFUSED.items():
        value = getattr(jax.config, name, needed)
        if value != needed:
            raise InvalidArgumentError(
                f"nspjax cannot generate under JAX's setting {name}={value!r}: leave it at "
                f"{needed!r}"
            )
    try:
        jax.devices()
    except Exception as error:  # an AssertionError without a text for platforms that are not there
        platforms = getattr(jax.config, "jax_platforms", None)
        raise InvalidArgumentError(
            f"JAX starts no device under jax_platforms={platforms!r}"
            f"{f' ({error})' if str(error) else ''}: leave JAX_PLATFORMS unset, or set it to 'cpu'"
        ) from error


@contextlib.contextmanager
def pinned_settings() -> Iterator[None]:
    """Trace and run with JAX's default settings, in this thread."""
    with contextlib.ExitStack() as settings:
        for name, value in _PINNED.items():
            settings.enter_context(getattr(jax, name)(value))
        yield
