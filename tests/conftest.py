"""Every test runs on the CPU backend, wherever it is run."""

import os
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.fixture(scope="session", autouse=True)
def _programs_are_compiled_once():
    """Many tests run programs that others ran: XLA compiles them once in each pytest process.

    The commands that tests start share a cache of their own, not the user's.
    """
    import jax

    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CACHE_HOME", os.path.join(directory, "of-commands"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        jax.config.update("jax_compilation_cache_dir", directory)
        yield
        jax.config.update("jax_compilation_cache_dir", None)


@pytest.fixture(scope="session")
def smollm() -> Path:
    """SmolLM2-135M-Instruct, the real model of `make demo`."""
    pytest.importorskip("gguf", reason="the extra gguf is not installed")
    path = Path(__file__).parents[1] / "build/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.exists():
        pytest.skip("the real model is not here: `make smollm2` fetches it")
    return path
