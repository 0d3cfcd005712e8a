"""Every test runs on the CPU backend, wherever it is run."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
