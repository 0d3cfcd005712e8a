"""JAX's settings, each with a value that is not its default, and how to run under them."""

import contextlib

import jax

OTHER = {
    "jax_default_matmul_precision": "bfloat16",
    "jax_default_prng_impl": "rbg",
    "jax_explicit_x64_dtypes": "error",
    "jax_legacy_prng_key": "error",
    "jax_memory_fitting_level": "O0",
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
    "jax_optimization_level": "O1",
    "jax_random_seed_offset": 7,
    "jax_send_traceback_to_runtime": "full",
    "jax_transfer_guard": "disallow",
    "jax_transfer_guard_device_to_device": "disallow",
    "jax_transfer_guard_device_to_host": "disallow",
    "jax_transfer_guard_host_to_device": "disallow",
}
"""What is no bool -> a value that is not the default."""

NOT_OURS = {
    "jax_compilation_cache_expect_pgle": "profiles of GPUs",
    "jax_enable_pgle": "profiles of GPUs",
    "jax_distributed_debug": "prints every program",
    "jax_explain_cache_misses": "logs every tracing",
    "jax_log_compiles": "logs every compilation",
    "jax_raise_persistent_cache_errors": "about a cache on disk",
}

NOT_AT_ONCE = {"jax_scan3"}
"""No trouble alone, but with all others at once JAX itself does not lower a loop."""


def other_values() -> dict[str, object]:
    """Every setting of this JAX that is a bool or one of OTHER, with another value than now."""
    bools = {
        name: not value for name, value in jax.config.values.items() if isinstance(value, bool)
    }
    known = {name: value for name, value in OTHER.items() if name in jax.config.values}
    values = bools | known
    return {name: values[name] for name in sorted(values) if name not in NOT_OURS}


@contextlib.contextmanager
def changed(settings: dict[str, object]):
    """JAX's configuration with these settings."""
    before = {name: jax.config.values[name] for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
