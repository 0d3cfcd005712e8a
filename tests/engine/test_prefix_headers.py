"""Headers of saved prefixes, whatever they say: an error of ours, and at once."""

import dataclasses
import json
import struct

import orjson
import pytest
from fuzzing import MANY, MIB, mutated
from hypothesis import given, settings
from hypothesis import strategies as st
from prefix_cases import MODEL, assert_same, filled, opened
from prefix_parts import joined, split

from nspjax import _engine
from nspjax.errors import InvalidArgumentError, StoreDamagedError
from nspjax.runtime import prefix_file
from nspjax.runtime.prefix_file import HEADER_FRAME, MAGIC, chunks
from nspjax.runtime.prefix_header import HeaderError, header_text, parse_header


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
