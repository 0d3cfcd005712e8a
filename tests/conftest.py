"""Every test runs on the CPU backend, wherever it is run."""

import os
import tempfile

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(scope="session", autouse=True)
def _programs_are_compiled_once():
    """Many tests run programs that others ran: XLA compiles them once in each pytest process.

    The processes that tests start compile for themselves: they are killed, and several write.
    """
    import jax

    with tempfile.TemporaryDirectory() as directory:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        jax.config.update("jax_compilation_cache_dir", directory)
        yield
        jax.config.update("jax_compilation_cache_dir", None)
