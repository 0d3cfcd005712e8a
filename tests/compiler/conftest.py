"""A store in memory and one in a file, for the tests of whole programs."""

import pytest

from nspjax import Store


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path):
    device = "memory:" if request.param == "memory" else tmp_path
    with Store(device, host_memory="16MiB") as store:
        yield store
