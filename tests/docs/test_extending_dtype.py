"""docs/extending.md, followed: tiles of one more element type, in a copy of the engine."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from f8 import EDITS, ROW, insert

ROOT = Path(__file__).parents[2]
BESIDE = Path(sys.executable).parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all((BESIDE / tool).exists() for tool in ("cmake", "ninja")),
        reason="cmake and ninja are not in this environment: make .venv/build-tools",
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("nanobind") is None, reason="the engine is built with nanobind"
    ),
]


class Sources:
    """A copy of what the engine is built of, and one folder to build it in."""

    def __init__(self, root: Path):
        self.root, self.build = root, root / "build"
        for name in ("csrc", "hls_kernels"):
            shutil.copytree(ROOT / name, root / name)
        shutil.copy(ROOT / "CMakeLists.txt", root)
        (root / "tests").mkdir()
        for file in ("conftest.py", "not_finite.py"):
            shutil.copy(ROOT / "tests" / file, root / "tests")
        for folder in ("engine", "hls_kernels"):
            shutil.copytree(ROOT / "tests" / folder, root / "tests" / folder)
        run(
            BESIDE / "cmake", "-S", root, "-B", self.build, "-G", "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={BESIDE / 'ninja'}", f"-DPython_EXECUTABLE={sys.executable}",
            "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0", "-DNSPJAX_WERROR=ON",
        )  # fmt: skip
        self.commands = {
            Path(entry["file"]): entry
            for entry in json.loads((self.build / "compile_commands.json").read_text())
        }

    def put_back(self, file: str) -> None:
        shutil.copy(ROOT / file, self.root / file)

    def errors_of(self, file: str) -> str:
        """What the compiler says of one file."""
        entry = self.commands[self.root / file]
        command = [*shlex.split(entry["command"]), "-fsyntax-only"]
        ended = subprocess.run(command, cwd=entry["directory"], capture_output=True, text=True)
        return ended.stderr if ended.returncode else ""

    def engine(self) -> Path:
        run(BESIDE / "ninja", "-C", self.build, "-j", "2", "_engine")
        return self.build / "csrc/bindings" / f"_engine{sysconfig.get_config_var('EXT_SUFFIX')}"


def run(*command: object, **options) -> str:
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-4000:]
    return ended.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return Sources(tmp_path_factory.mktemp("one_more"))


@pytest.fixture
def all_but(sources):
    """all_but(file, …): the page's steps, but for those in these files."""

    def follow(*left_out: str) -> Sources:
        for file in EDITS:
            sources.put_back(file)
            if file not in left_out:
                insert(sources.root, file)
        return sources

    return follow


def test_the_page_has_these_files():
    section = (ROOT / "docs/extending.md").read_text().split("## A stored dtype")[1]
    rows = [row for row in section.split("\n## ")[0].splitlines() if row.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([\w/]+\.\w+)`", row.split("|")[1])]
    named = [n if "/" in n else "hls_kernels/attention/" + n for n in named]
    assert named == list(EDITS)


@pytest.mark.parametrize(
    ("left_out", "compiled", "message"),
    [
        ("csrc/format/numbers.h", "csrc/format/convert_head.cc", "needs its own Element"),
        ("csrc/attention/elements.h", "csrc/attention/avx2.cc", "FloatElements.*kF8"),
        ("hls_kernels/attention/interface.h", "csrc/device/card_run.cc", "kF8.*not declared"),
        ("hls_kernels/attention/elements.h", "hls_kernels/attention/attention.cpp", "kF8.*switch"),
        ("csrc/device/card_run.cc", "csrc/device/card_run.cc", "kF8.*switch"),
    ],
)
def test_what_is_left_out_does_not_compile(all_but, left_out, compiled, message):
    sources = all_but(left_out)
    if sources.root / compiled not in sources.commands:
        pytest.skip(f"{compiled} is not for this processor")
    assert re.search(message, sources.errors_of(compiled))


def test_a_row_alone_does_not_compile(all_but):
    rest = [file for file in EDITS if file != "csrc/format/dtype.h"]
    sources = all_but(*rest)
    assert "needs its own Element" in sources.errors_of("csrc/format/convert_head.cc")
    assert re.search("static assertion failed", sources.errors_of("csrc/device/card_run.cc"))


def test_a_row_out_of_order_does_not_compile(all_but):
    sources = all_but()
    table = sources.root / "csrc/format/dtype.h"
    text = table.read_text().replace(ROW, "")
    first = "    {DType::kF32,"
    table.write_text(text.replace(first, ROW + first))
    errors = sources.errors_of("csrc/format/dtype.cc")
    assert re.search(r"static assertion failed.*\n.*is_sound", errors)


# What the copy's engine does, in a process that takes it for nspjax's.
CHILD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("nspjax._engine", sys.argv[1])
sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[spec.name])
"""
ROUND_TRIP = """
import jax, jax.numpy as jnp, ml_dtypes, numpy as np
import nspjax
from nspjax.ops.attention import cached_attention

ROWS, TOKENS, HEADS, D = 2, 70, 2, 24
rng = np.random.default_rng(0)
shape = (ROWS, TOKENS, HEADS, D)
k, v = (rng.standard_normal(shape) * 2.0 ** rng.integers(-20, 20, shape) for _ in "kv")
k, v = k.astype(np.float32), v.astype(np.float32)
k[0, 0, 0, :4], v[0, 1, 0, :4] = [61439.9, 61440, 1e-5, -0.0], [np.inf, -1e9, 1.125, 1.375]
with nspjax.Store(sys.argv[2], host_memory="64MiB", pinned="0") as store:
    cache = store.kv_cache(batch=ROWS, capacity_tokens=TOKENS, n_kv_heads=HEADS, head_dim=D,
                           dtype=jnp.float32, kv_dtype="float8_e5m2", interval_tokens=32)
    append = nspjax.near_storage(lambda k, v, c: cached_attention(k, k, v, c)[1], store=store)
    cache = append(k, v, cache)
    store.flush()
    got = store.fetch(cache)
    assert store.stats().bytes_written > 0
for given, read in ((k, got.k), (v, got.v)):
    stored = given.astype(ml_dtypes.float8_e5m2).astype(np.float32)
    np.testing.assert_array_equal(read[:, :64], stored[:, :64])
    np.testing.assert_array_equal(read[:, 64:], given[:, 64:])  # the tail is as appended
"""
TESTS = """
import pytest
sys.exit(pytest.main(["-q", "-c", "/dev/null", "-p", "no:cacheprovider", "--rootdir", ".",
                      *sys.argv[2:]]))
"""


@pytest.fixture(scope="module")
def engine(sources):
    for file in EDITS:
        sources.put_back(file)
        insert(sources.root, file)
    return sources.engine()


def test_a_round_trip_through_a_file(engine, tmp_path):
    run(sys.executable, "-c", CHILD + ROUND_TRIP, engine, tmp_path)


def test_the_tests_try_it(engine, sources):
    """Those of tiles, kernels and cards, which take their types from the table."""
    files = ["engine/test_dtypes.py", "engine/test_kernels.py", "engine/test_kv_dtype_in_store.py",
             "hls_kernels/test_attention_kernel.py"]  # fmt: skip
    out = run(
        sys.executable, "-c", CHILD + TESTS, engine, "-k", "f8 or every_type_is_tried", "-rA",
        *(f"tests/{file}" for file in files), cwd=sources.root,
    )  # fmt: skip
    for file in files:
        assert re.search(rf"PASSED tests/{file}::\S*f8", out), file


def test_an_error_bound_that_is_forgotten(engine, sources):
    file = "tests/engine/test_kv_dtype_in_store.py"
    sources.put_back(file)
    command = [sys.executable, "-c", CHILD + TESTS, engine, "-k", "every_type", file]
    ended = subprocess.run(command, cwd=sources.root, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "FAILED" in ended.stdout
