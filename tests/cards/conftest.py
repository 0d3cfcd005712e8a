"""Skips this folder where there are no emulated cards, and says why."""

import pytest

from nspjax import _engine, xrt_emulator


@pytest.fixture(autouse=True, scope="session")
def _emulator() -> None:
    why = xrt_emulator.missing()
    if why is None and not _engine.build_info()["xrt"]:
        why = "nspjax was built without XRT's headers (libxrt-dev)"
    if why is not None:
        pytest.skip(why)
