"""Files and texts from outside that the store's side parses: whatever they say, an error of ours,
and at once."""

import contextlib
import struct

import pytest
from fuzzing import MANY, MIB, mutated
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nspjax import _engine
from nspjax.byte_size import parse_bytes
from nspjax.cli.rates_option import parse_rates
from nspjax.cli.store_info import mount_of
from nspjax.errors import NspjaxError, StoreDamagedError
from nspjax.runtime.rate_limit import parse_rate
from nspjax.xrt_emulator import parse_fault

# ---- superblocks --------------------------------------------------------------------------------


@settings(MANY, max_examples=200)
@given(data=st.data(), mends=st.booleans())
def test_fuzzed_superblocks(tmp_path, data, mends):
    path = tmp_path / "nspjax.kv"
    path.unlink(missing_ok=True)
    _engine.Store([str(tmp_path)], 8 * MIB).close()
    content = data.draw(mutated(path.read_bytes()[:64])) + path.read_bytes()[64:]
    if mends:
        content = content[:4092].ljust(4092, b"\0")
        content += struct.pack("<I", _engine.crc32c(content))
    path.write_bytes(content)
    try:
        _engine.Store([str(tmp_path)], 8 * MIB).close()
    except StoreDamagedError:
        assert path.read_bytes() == content, "left as it is"


# ---- profiles -----------------------------------------------------------------------------------


def profile_text(body: str) -> bytes:
    return f"{body}crc32c {_engine.crc32c(body.encode()):08x}\n".encode()


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    directory = tmp_path_factory.mktemp("drive")
    if _engine.measure_profile(str(directory))["source"] != "measured":
        pytest.skip("this directory cannot be measured")
    text = (directory / "nspjax.profile").read_text()
    return directory, text[: text.index("crc32c ")]


RATES = ["0.000", "-1.000", "nan", "inf", "-inf", "1e400", "0.0001", "1e9", "", "x", "1.0", "0x1"]


def test_profiles_that_lie(profile):
    """A rate of 0 is none: measured again, as everything that cannot be."""
    directory, body = profile
    lines = body.splitlines(keepends=True)
    (directory / "nspjax.profile").write_bytes(profile_text(body))
    assert _engine.kept_profile(str(directory)) is not None
    for index, line in enumerate(lines):
        name = line.split()[0]
        for value in [*RATES, "0", "-1", "4095", str(2**62), str(2**64), "9" * 400]:
            if name in ("nspjax", "io", "file_system") or line == f"{name} {value}\n":
                continue
            changed = "".join([*lines[:index], f"{name} {value}\n", *lines[index + 1 :]])
            (directory / "nspjax.profile").write_bytes(profile_text(changed))
            assert _engine.kept_profile(str(directory)) is None, changed
    assert _engine.probe(str(directory))["source"] == "measured", "again"


@settings(MANY, max_examples=300)
@given(data=st.data())
def test_fuzzed_profiles(profile, data):
    directory, body = profile
    text = data.draw(mutated(body.encode()))
    crc = f"crc32c {_engine.crc32c(text):08x}\n".encode()
    (directory / "nspjax.profile").write_bytes(text + crc)
    found = _engine.kept_profile(str(directory))
    if found is not None:
        assert 4096 <= found["block_bytes"] <= 64 * MIB
        assert 1 <= found["depth"] <= 1024
        assert 0 < found["read_gb_per_s"] < 1e7


# ---- texts --------------------------------------------------------------------------------------

TEXTS = {
    parse_bytes: "512MiB",
    parse_rate: "3GB/s",
    parse_rates: "device=3GB/s,link=16GB/s,compute=10TFLOP/s",
    lambda text: parse_fault(text, 2): "die:after=3:card=1",
    lambda text: _engine.expand_cards([text]): "xrt:0,1?xclbin=a&path=/b{card}&timeout_s=1.5",
}


LARGE_NUMBERS = [
    "9" * 5000 + "GB",
    "9" * 400,
    "1e400GB/s",
    "device=" + "9" * 400 + "GB/s,link=1GB/s,compute=1FLOP/s",
    "xrt:" + "9" * 400,
    "xrt:0?path=/a&xclbin=b&timeout_s=nan",
    "die:after=" + "9" * 5000,
]


@MANY
@given(data=st.data(), which=st.sampled_from(list(TEXTS)))
@example(data=None, which=parse_bytes)
def test_fuzzed_texts(data, which):
    texts = LARGE_NUMBERS
    if data is not None:
        text = TEXTS[which].encode()
        texts = [data.draw(mutated(text)).decode("utf-8", "surrogateescape").replace("\0", "")]
    for text in texts:
        with contextlib.suppress(NspjaxError):
            which(text)


@MANY
@given(text=st.text(max_size=200))
@example(text="1 2 3 / /a\\040b rw - ext4 /dev/x rw\n")
def test_fuzzed_mount_tables(text):
    mount_of("/a b/c", text)
