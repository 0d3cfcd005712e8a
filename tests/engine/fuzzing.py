"""Bytes and texts that were changed at random, and a limit of time for who reads them."""

import signal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

MANY = settings(
    deadline=None,
    max_examples=600,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MIB = 1 << 20


@pytest.fixture(autouse=True)
def at_once():
    def late(*_):
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@st.composite
def mutated(draw, whole: bytes) -> bytes:
    """Bytes flipped, cut, doubled, put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        how = draw(st.sampled_from(["set", "cut", "insert", "double", "drop"]))
        if how == "set" and data:
            data[at] = draw(st.integers(0, 255))
        elif how == "cut":
            del data[at:]
        elif how == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        elif how == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        else:
            del data[at : at + draw(st.integers(1, 64))]
    return bytes(data)
