"""A host on XRT's C++ API and a kernel for it, compiled once a session."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import xrt_probe

from nspjax import xrt_emulator

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
XRT_INCLUDE = Path("/usr/include/xrt")


@pytest.fixture(scope="session")
def emulator() -> None:
    """Skips what needs emulated cards where there cannot be any, and says why."""
    why = xrt_emulator.missing()
    if why is not None:
        pytest.skip(why)


@pytest.fixture(scope="session")
def probe(emulator: None, tmp_path_factory: pytest.TempPathFactory) -> xrt_probe.Probe:
    if not XRT_INCLUDE.is_dir():
        pytest.skip(f"no XRT headers in {XRT_INCLUDE}: apt-get install libxrt-dev")
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    directory = tmp_path_factory.mktemp("xrt_probe")
    host, kernel = directory / "probe_host", directory / "probe_kernel.so"
    options = ["g++", "-std=c++20", "-O1", "-pthread"]
    for command in (
        [*options, "-fPIC", "-shared", f"-I{CSRC}", HERE / "probe_kernel.cc", "-o", kernel],
        [*options, f"-isystem{XRT_INCLUDE}", HERE / "probe_host.cc", "-o", host, "-lxrt_coreutil"],
    ):
        subprocess.run(command, check=True, timeout=120)
    return xrt_probe.Probe(host, kernel)
