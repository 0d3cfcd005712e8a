"""Files and texts from outside that the store's side parses: whatever they say, an error of ours,
and at once."""

import contextlib
import dataclasses
import json
import signal
import struct

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prefix_cases import MODEL, assert_same, filled, opened
from test_prefix_file import joined, split

from nspjax import _engine
from nspjax.byte_size import parse_bytes
from nspjax.cli.rates_option import parse_rates
from nspjax.cli.store_info import mount_of
from nspjax.errors import InvalidArgumentError, NspjaxError, StoreDamagedError
from nspjax.runtime import prefix_file
from nspjax.runtime.prefix_file import HEADER_FRAME, MAGIC, chunks
from nspjax.runtime.prefix_header import HeaderError, header_text, parse_header
from nspjax.runtime.rate_limit import parse_rate
from nspjax.xrt_emulator import parse_fault

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


# ---- prefix headers -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A store, its caches, and a file of a prefix with its bytes."""
    directory = tmp_path_factory.mktemp("prefix")
    with opened(directory, 0) as store:
        caches = filled(store, (100, 0, 0))
        store.save_prefix(directory / "prefix", caches, 0, model=MODEL)
        yield store, caches, directory / "prefix", (directory / "prefix").read_bytes()


def load(saved, row):
    """As the row of caches that are current again, whatever earlier loads did."""
    store, caches, path, _ = saved
    return store.load_prefix(path, list(map(store.current, caches)), row, model=MODEL)


def parsed(text):
    """The header, or the error's text."""
    try:
        return parse_header(text), ""
    except (HeaderError, InvalidArgumentError) as error:
        return None, str(error)


def framed(text: bytes, rest: bytes) -> bytes:
    """A file with this text as its header, its checksum right."""
    checksum = _engine.crc32c(struct.pack("<I", len(text)) + text)
    return MAGIC + HEADER_FRAME.pack(len(text), checksum) + text + rest


NUMBERS = [
    0, -1, 1, 2, 3, 2**31, 2**32, 2**62, 2**63, 2**64, -(2**63), 10**18, 10**400,
    True, False, 1.0, 0.5, -0.0, 1e308,
]  # fmt: skip
OTHERS = ["", "x", "f64", "512", None, [], [1], {}, {"a": 1}, [[[[]]]]]
FIELDS = [
    "n_layers", "n_kv_heads", "head_dim", "tile_tokens", "tile_layout", "head_bytes", "n_tokens",
    "dtype", "kv_dtype", "model", "format",
]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_a_header_that_lies(saved, field):
    """Every field with every absurd value: refused, and the error names it or what follows."""
    _, _, path, whole = saved
    header, rest = split(whole)
    refused = 0
    for value in [*NUMBERS, *OTHERS]:
        if value == header[field] and type(value) is type(header[field]):
            continue
        path.write_bytes(framed(json.dumps({**header, field: value}).encode(), rest))
        with pytest.raises((StoreDamagedError, InvalidArgumentError)) as error:
            load(saved, 1)
        assert str(path) in str(error.value)
        assert len(str(error.value)) < 1000
        if type(error.value) is StoreDamagedError:
            refused += 1
        else:  # it can be true, of other caches
            assert field in str(error.value) or field == "format"
    assert refused > len(OTHERS)
    path.write_bytes(whole)
    load(saved, 1)


def test_header_texts(saved):
    store, _, path, whole = saved
    header, rest = split(whole)
    good = orjson.dumps(header)
    pairs = ",".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in header.items())
    texts = {
        b"": "no JSON",
        b"null": "not an object",
        b"[]": "not an object",
        b"3": "not an object",
        b'"x"': "not an object",
        b"{}": "format",
        b"\xff\xfe": "no JSON",
        good[:-1]: "no JSON",
        good + b"x": "no JSON",
        b"[" * 500_000: "no JSON",
        b'{"a":' * 100_000: "no JSON",
        good.decode().encode("utf-16"): "no JSON",
        ("{" + pairs + ',"n_tokens":100}').encode(): "twice",
        ("{" + pairs + ',"surplus":1}').encode(): "surplus",
        ("{" + pairs.replace('"n_layers":2', '"n_layers":NaN') + "}").encode(): "NaN",
        ("{" + pairs.replace('"n_layers":2', '"n_layers":Infinity') + "}").encode(): "Infinity",
        ("{" + pairs.replace('"n_layers":2', '"n_layers":' + "9" * 5000) + "}").encode(): "JSON",
        ("{" + pairs.replace('"n_layers":2', '"n_layers":2e0') + "}").encode(): "n_layers",
        ("{" + pairs.replace('"n_layers":2,', "") + "}").encode(): "no n_layers",
    }
    for text, why in texts.items():
        path.write_bytes(framed(text, rest))
        with pytest.raises(StoreDamagedError, match=why):
            load(saved, 1)
    for size in (2**32 - 1, 2**31, MIB + 1, len(whole)):
        path.write_bytes(MAGIC + HEADER_FRAME.pack(size, 0) + whole[16:])
        with pytest.raises(StoreDamagedError):
            load(saved, 1)
    path.write_bytes(framed(json.dumps(header, indent=4).encode(), rest))  # says the same
    loaded, _ = load(saved, 1)
    assert_same(store, loaded, 0, store, loaded, 1, 100)
    path.write_bytes(whole)


def test_a_header_that_fits_nothing_is_not_allocated(saved, tmp_path):
    """Consistent in itself, of a file that would have terabytes; and a file that claims to."""
    _, _, path, whole = saved
    header, rest = split(whole)
    large = {**header, "n_tokens": 1 << 30, "n_layers": 1 << 16}
    path.write_bytes(joined(large, rest))
    with pytest.raises(StoreDamagedError, match="it has"):
        load(saved, 1)
    values = {name: value for name, value in large.items() if name != "format"}
    n_bytes = len(joined(large, b"")) + 8
    n_bytes += prefix_file._chunks_bytes(prefix_file.PrefixHeader(**values))
    if n_bytes < 1 << 43:  # ext4's largest
        with open(path, "r+b") as file:
            file.truncate(n_bytes)
        with pytest.raises((StoreDamagedError, InvalidArgumentError)):
            load(saved, 1)
    path.write_bytes(whole)


def test_the_sum_is_that_of_all_chunks(saved):
    header, _ = split(saved[3])
    del header["format"]
    header = prefix_file.PrefixHeader(**header)
    for n_tokens in (1, 15, 16, 17, 100, 4000):
        for n_layers in (1, 5):
            each = dataclasses.replace(header, n_tokens=n_tokens, n_layers=n_layers)
            counted = sum(prefix_file.CHUNK_FRAME.size + c.n_bytes for c in chunks(each))
            assert prefix_file._chunks_bytes(each) == counted


def test_what_cannot_be_saved(saved, tmp_path):
    store, caches, *_ = saved
    for model in ("x" * (1 << 20), "\ud800", 3, b"m", None):
        with pytest.raises(InvalidArgumentError, match="model"):
            store.save_prefix(tmp_path / "p", list(map(store.current, caches)), 0, model=model)
    assert not list(tmp_path.iterdir())


values = st.recursive(
    st.one_of(st.sampled_from(NUMBERS + OTHERS), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@MANY
@given(
    changes=st.dictionaries(st.sampled_from(FIELDS), values, max_size=3),
    drop=st.sampled_from([None, *FIELDS]),
)
def test_fuzzed_headers(saved, changes, drop):
    header, _ = split(saved[3])
    header |= changes
    header.pop(drop, None)
    found, error = parsed(json.dumps(header).encode())
    assert len(error) < 1000
    if found is not None:
        assert orjson.loads(header_text(found)) == header


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


@MANY
@given(data=st.data())
def test_fuzzed_header_texts(saved, data):
    text = data.draw(mutated(orjson.dumps(split(saved[3])[0])))
    assert len(parsed(text)[1]) < 1000


@settings(MANY, max_examples=400)
@given(data=st.data(), mends=st.booleans())
def test_fuzzed_prefixes(saved, data, mends):
    """With the header's checksum mended, or not: what loads is what was saved."""
    store, _, path, whole = saved
    bytes_now = data.draw(mutated(whole))
    if mends and len(bytes_now) > 16:
        n = min(len(bytes_now) - 16, len(whole) - 16 - len(split(whole)[1]))
        bytes_now = framed(bytes_now[16 : 16 + n], bytes_now[16 + n :])
    path.write_bytes(bytes_now)
    try:
        loaded, n_tokens = load(saved, 2)
    except (StoreDamagedError, InvalidArgumentError):
        return
    finally:
        path.write_bytes(whole)
    assert n_tokens == 100
    assert_same(store, loaded, 0, store, loaded, 2, n_tokens)


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
