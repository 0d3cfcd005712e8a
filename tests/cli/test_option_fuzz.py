"""Whatever stands behind an option that is parsed here: a value, or our exception, and quickly."""

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nspjax.byte_size import MOST_BYTES, parse_bytes
from nspjax.cli.opt_input import module_of_file, module_reader
from nspjax.cli.rates_option import parse_rates
from nspjax.compiler import Pipeline, passes
from nspjax.compiler.driver.presets import PRESETS
from nspjax.errors import InvalidArgumentError, PipelineError

QUICK = settings(max_examples=300, deadline=3000)
PIECES = st.sampled_from(
    [
        *passes._OURS,
        *PRESETS,
        *"{}=, 10+x٣\0\ud800\n",
        *("interval", "groups", "fraction", "-1", "1e999", "9" * 5000, "nan", "true", "None"),
    ]
)
SIZES = st.sampled_from(
    [
        "1",
        "9" * 400,
        ".",
        "-",
        "e",
        "K",
        "M",
        "GiB",
        "B",
        "TB",
        " ",
        "٣",
        "nan",
        "inf",
        "_",
        "\ud800",
    ]
)
RATES = st.sampled_from(
    ["device", "link", "compute", "=", ",", "3", "GB", "/s", "TFLOP", "FLOPS", "٣", "9" * 400, "ſ"]
)


def joined(pieces, most=8):
    return st.lists(pieces, max_size=most).map("".join) | st.text(max_size=20)


@contextlib.contextmanager
def told_shortly():
    """Lets InvalidArgumentErrors pass whose message a terminal can hold."""
    message = ""
    try:
        yield
    except InvalidArgumentError as error:
        message = str(error)
    assert len(message) < 300


@QUICK
@given(joined(PIECES, 12))
def test_pipelines(text):
    with contextlib.suppress(PipelineError):
        pipeline = Pipeline.parse(text)
        assert Pipeline.parse(str(pipeline)) == pipeline


@pytest.mark.parametrize("text", [" " * 10**6, "," * 10**6, "a" * 10**6, "{" * 10**6])
@pytest.mark.timeout(60)
def test_long_pipelines(text):
    with pytest.raises(PipelineError):
        Pipeline.parse(text)
    with contextlib.suppress(PipelineError):  # spaces are no options
        Pipeline.parse(f"prefetch{{{text[:9000]}}}")


@QUICK
@given(joined(SIZES) | st.integers() | st.floats() | st.booleans() | st.none())
def test_sizes(size):
    with told_shortly():
        n_bytes = parse_bytes(size, least=0)
        assert 0 <= n_bytes <= MOST_BYTES
        assert isinstance(size, int) or re.match(r"\s*[0-9]", size)


@pytest.mark.parametrize(
    ("size", "n_bytes"),
    [
        ("9007199254740993", 9007199254740993),
        ("1.5KiB", 1536),
        ("0.1GB", 10**8),
        ("8388607TiB", None),
    ],
)
def test_sizes_are_exact(size, n_bytes):
    assert parse_bytes(size) == (n_bytes or 8388607 * 2**40)


@QUICK
@given(joined(RATES, 16))
def test_rates(text):
    with told_shortly():
        rates = parse_rates(text)
        assert 0 < rates.compute_flops < float("inf")


MODULE = """module {
  func.func public @main(%arg0: tensor<2x3xf32>) -> tensor<2x3xf32> {
    %0 = stablehlo.add %arg0, %arg0 : tensor<2x3xf32>
    return %0 : tensor<2x3xf32>
  }
}
"""


@settings(max_examples=300, deadline=3000)
@given(
    at=st.integers(0, len(MODULE)), n=st.integers(0, 9), text=joined(st.sampled_from('%<>{}():x9"'))
)
def test_mlir_text(tmp_path_factory, at, n, text):
    path = tmp_path_factory.getbasetemp() / "fuzz.mlir"
    path.write_bytes((MODULE[:at] + text + MODULE[at + n :]).encode("utf-8", "surrogatepass"))
    with contextlib.suppress(InvalidArgumentError):
        module_of_file(str(path))


@settings(max_examples=200, deadline=3000)
@given(
    name=joined(st.sampled_from(["os", ":", ".", "path", "exit", "/", "\0", ".py", "é", "sys"]), 5)
)
def test_names_of_functions(name):
    with pytest.raises(InvalidArgumentError):
        module_reader(f"{name}:")()
