"""`nspjax opt`: inputs, what it shows, what it refuses."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from nspjax.cli import app
from nspjax.cli.rates_option import parse_rates
from nspjax.compiler import Pipeline, mlir, passes
from nspjax.compiler.machine.rates import Rates, rates_of, set_rates
from nspjax.errors import InvalidArgumentError

RATES = "device=3GB/s,link=16GB/s,compute=10TFLOP/s"
FUNCTION = "opt_functions:decode"


@pytest.fixture(autouse=True)
def _beside_the_functions(monkeypatch):
    monkeypatch.chdir(Path(__file__).parent)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("COLUMNS", "160")


def opt(*arguments, **options):
    return CliRunner().invoke(app, ["opt", *map(str, arguments)], **options)


def test_a_function():
    ended = opt(FUNCTION)
    assert (ended.exit_code, ended.stderr) == (0, "nothing to do for host-dot\n")
    module = mlir.parse(ended.stdout)
    targets = [mlir.call_target(op) for op in mlir.operations(module)]
    assert [name for name in targets if name] == ["nspjax.append", "nspjax.attend"] * 2


@pytest.mark.parametrize(
    "name",
    [
        "opt_functions:with_arrays",
        "opt_functions:Namespace.decode",
        "../cli/opt_functions.py:decode",
    ],
)
def test_other_ways_to_give_it(name):
    ended = opt(name, "-p", "offload-kv")
    assert ended.exit_code == 0
    assert ended.stdout.count("nsp.attend") == 2


def test_its_own_output_is_an_input(tmp_path):
    half, whole = tmp_path / "half.mlir", tmp_path / "whole.mlir"
    assert opt(FUNCTION, "--until", "offload-kv", "-o", half).exit_code == 0
    assert "nsp.append" in half.read_text()
    assert opt(half, "-p", "lower-to-ffi", "-o", whole).exit_code == 0
    at_once = opt(FUNCTION).stdout
    assert whole.read_text() == at_once
    assert opt("-", "-p", "lower-to-ffi", input=half.read_text()).stdout == at_once


def test_no_pass_at_all():
    ended = opt(FUNCTION, "-p", "")
    assert ended.stdout.count('composite "nspjax.cached_attention"') == 2
    assert mlir.CACHE_ARGUMENT in ended.stdout


def test_modules_on_the_way(tmp_path):
    ended = opt(FUNCTION, "--print-ir-after", "offload-kv", "--dump-dir", tmp_path / "ir")
    assert ended.stderr.startswith("// ---- after offload-kv (")
    assert "nsp.append" in ended.stderr
    assert "nsp.append" not in ended.stdout
    assert [path.name for path in sorted((tmp_path / "ir").iterdir())] == [
        "01-offload-kv.mlir",
        "02-host-dot.mlir",
        "03-lower-to-ffi.mlir",
    ]


def test_table():
    ended = opt(FUNCTION, "--table", "--context", 16)
    head, *lines, idle = [line.split() for line in ended.stderr.splitlines()]
    assert idle[-1] == "host-dot"
    assert " ".join(head) == "one execution, 16 tokens a row"
    rows = {line[0]: " ".join(line[1:]) for line in lines}
    assert "2 cached_attention" in rows["(input)"]
    # bfloat16 K and V: 2 layers × 2 rows × 16 tokens × 2 heads × 8; of one new token each
    for name in ("offload-kv", "lower-to-ffi"):
        assert "2 append, 2 attend" in rows[name]
        assert " 4.00 KiB 256 B " in rows[name]
    assert "module" in ended.stdout


def test_a_row_of_the_table_is_one_line_in_a_file(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    lines = opt(FUNCTION, "--table").stderr.splitlines()
    assert [line.split()[0] for line in lines[2:-1]] == [
        "(input)",
        "offload-kv",
        "host-dot",
        "lower-to-ffi",
    ]


def test_passes_that_do_nothing_are_named():
    """No cache is left for a second offload-kv; host-dot has no product that pays."""
    ended = opt(FUNCTION, "-p", "offload-kv,offload-kv,host-dot,lower-to-ffi")
    assert ended.stderr == "nothing to do for offload-kv, host-dot\n"
    assert opt(FUNCTION, "-p", "offload-kv").stderr == ""


PASS_FILE = """
import dataclasses, typing
from opt_functions import decode
from nspjax.compiler import register_pass
from nspjax.compiler.machine.rates import Rates, set_rates

@register_pass
@dataclasses.dataclass(frozen=True)
class Mark:
    name: typing.ClassVar[str] = "{name}"
    def run(self, module):
        set_rates(module, Rates(1.0, 2.0, 3.0))
        return module
"""


def test_paths_that_are_no_utf8(tmp_path):
    """In a C locale, in which Python takes text for ASCII."""
    module, odd = tmp_path / "module.mlir", os.fsdecode(b"\xe9")
    assert opt(FUNCTION, "-p", "offload-kv", "-o", module).exit_code == 0
    os.rename(module, tmp_path / f"{odd}.mlir")
    (tmp_path / f"{odd}.py").write_text("def f(): return (lambda x: x), (1.0,)")

    def opt_in_c(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "nspjax", "opt", *arguments],
            cwd=tmp_path,
            env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
            capture_output=True,
        )

    ended = opt_in_c(f"{odd}.mlir", "-o", f"{odd}.out", "--dump-dir", f"{odd}.d", "-p", "host-dot")
    assert ended.returncode == 0, ended.stderr
    assert os.path.exists(tmp_path / f"{odd}.d" / "01-host-dot.mlir")
    assert (tmp_path / f"{odd}.out").read_text() == (tmp_path / f"{odd}.mlir").read_text()
    ended = opt_in_c(f"{odd}.py:f")
    assert ended.returncode == 2
    assert b"is no path in UTF-8" in ended.stderr


def test_passes_of_files(tmp_path, monkeypatch):
    """Those of the file whose function is given, and of those that --import names."""
    monkeypatch.setattr(passes, "_users", dict(passes._users))
    monkeypatch.syspath_prepend(Path(__file__).parent)
    of_input, imported = tmp_path / "of_input.py", tmp_path / "types.py"  # a name that is taken
    of_input.write_text(PASS_FILE.format(name="of-input"))
    imported.write_text(PASS_FILE.format(name="imported"))
    both = (f"{of_input}:decode", "--import", imported, "--import", of_input)
    ended = opt(*both, "-p", "of-input,imported")
    assert ended.exit_code == 0, ended.stderr
    assert ended.stderr == "nothing to do for imported\n"
    assert opt(FUNCTION, "-p", "unheard-of").exit_code == 2


@pytest.mark.parametrize(("begin", "end"), [("tuple<", ">"), ("(", ")"), ("tuple<() -> ", ">")])
def test_a_module_that_is_nested_too_deeply(tmp_path, begin, end):
    """At ten times that depth MLIR's parser ends the process."""
    file = tmp_path / "deep.mlir"
    file.write_text(f"func.func @main(%a: {begin * 200_000}f32{end * 200_000}) {{ return }}")
    ended = opt(file)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert "is no valid module: it is nested too deeply" in ended.stderr


def test_python_that_ends_the_process_is_refused(tmp_path):
    file = tmp_path / "script.py"
    file.write_text("import sys\nsys.exit(0)\n")
    for arguments in ([f"{file}:f"], [FUNCTION, "--import", file]):
        ended = opt(*arguments)
        assert ended.exit_code == 2
        assert "SystemExit" in ended.stderr


def test_a_module_that_does_not_say_what_its_caches_are(tmp_path):
    """It is refused at once, by name: it could be neither counted nor planned for."""
    half = tmp_path / "half.mlir"
    text = opt(FUNCTION, "-p", "offload-kv").stdout
    half.write_text(text.replace("cache_shape = ", "cache_other = "))
    ended = opt(half, "-p", "lower-to-ffi", "--table")
    assert ended.exit_code == 1
    assert "nsp.append at " in ended.stderr
    assert "has no attribute 'cache_other'" in ended.stderr


def test_table_of_what_cannot_be_counted(tmp_path):
    """An operation that nobody knows: the passes run, and the table says why it is empty."""
    file = tmp_path / "other.mlir"
    file.write_text('func.func public @main() { "nsp.rotate"() : () -> () return }')
    ended = opt(file, "-p", "", "--table", "--context", "10")
    assert ended.exit_code == 0
    assert "not counted: nsp.rotate at" in ended.stderr


def test_graph(tmp_path):
    ended = opt(FUNCTION, "--graph", tmp_path / "layers.svg", "--rates", RATES)
    assert ended.exit_code == 0
    assert "nspjax.device_bytes_per_s" in ended.stdout
    svg = ElementTree.parse(tmp_path / "layers.svg").getroot()
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"compute", "link", "device", "writes", "append L0", "attend L0"} <= set(texts)
    assert "device 3 GB/s" in texts[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.mlir"], "cannot read none.mlir: No such file"),
        (["test_opt.py"], "test_opt.py is no valid module"),
        (["/dev/full"], "/dev/full is a device, which may never end"),
        (["no_such_module:f"], "cannot call no_such_module:f: ModuleNotFoundError"),
        (["no_such_file.py:f"], "cannot call no_such_file.py:f: FileNotFoundError"),
        (["opt_functions:nope"], "has no attribute 'nope'"),
        (["opt_functions:returns_a_number"], "returned int: it must return (fn, args)"),
        (["opt_functions:fails"], "the function of opt_functions:fails fails: TypeError"),
        ([FUNCTION, "-p", "typo"], "there is no pass 'typo'"),
        ([FUNCTION, "--until", "typo"], "has no pass 'typo' to end with"),
        ([FUNCTION, "--print-ir-after", "typo"], "cannot print after typo"),
        ([FUNCTION, "--rates", "3GB/s"], "cannot read the rates"),
        ([FUNCTION, "-o", "no/such/folder"], "-o no/such/folder has no directory no/such"),
        ([FUNCTION, "--graph", "."], "--graph . is a directory"),
        (["test_opt.py", "-o", "test_opt.py"], "is the input or the output"),
        ([FUNCTION, "--dump-dir", "test_opt.py"], "is no directory"),
        ([FUNCTION, "--dump-dir", "a" * 256], "cannot be made: File name too long"),
        ([FUNCTION, "--dump-dir", "test_opt.py/a"], "cannot be made: Not a directory"),
        ([FUNCTION, "-o", "a" * 256], "cannot be written: File name too long"),
        ([FUNCTION, "--graph", "a" * 256], "cannot be written: File name too long"),
        (["a" * 256 + ".mlir"], "File name too long"),
        ([FUNCTION, "--import", "nowhere.py"], "--import nowhere.py: FileNotFoundError"),
        ([FUNCTION, "--import", "no.such.module"], "--import no.such.module: ModuleNotFound"),
        ([FUNCTION, "--import", ""], "--import : ValueError"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    ended = opt(*arguments)
    assert ended.exit_code == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("error: ")
    assert message in ended.stderr


def test_a_function_that_is_only_declared():
    ended = opt("-", input="func.func private @main(tensor<2xf32>)")
    assert ended.exit_code == 2
    assert "- has no function @main with a body" in ended.stderr


@pytest.mark.parametrize("option", [[], ["-o", "/dev/full"], ["--graph", "/dev/full"]])
def test_a_full_disk(option):
    """/dev/full is one that every Linux has."""
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "nspjax", "opt", "-", *option],
            input=b"func.func @main() { return }",
            stdout=None if option else full,
            stderr=subprocess.PIPE,
        )
    assert ended.returncode == 1
    assert b"error: cannot write what was asked for: No space left on device\n" in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_a_pass_that_refuses(tmp_path):
    ended = opt("opt_functions:reads_its_cache", "-o", tmp_path / "out.mlir")
    assert ended.exit_code == 1
    assert "a KV cache is read by" in ended.stderr
    assert not (tmp_path / "out.mlir").exists()
    assert "Traceback" in opt("opt_functions:reads_its_cache", "--debug").stderr


def test_rates():
    rates = parse_rates("compute=1.5 GFLOPS, link=1GiB/s,device=500MB/s")
    assert rates == Rates(500e6, 2**30, 1.5e9)
    module = mlir.parse("func.func @main() { return }")
    assert rates_of(module) is None
    set_rates(module, rates)
    assert rates_of(module) == rates
    more = parse_rates(f"{RATES},write=1GB/s,memory=200GB/s,attend=100GB/s,ahead=1MiB")
    assert more == Rates(
        3e9,
        16e9,
        10e12,
        attend_bytes_per_s=100e9,
        write_bytes_per_s=1e9,
        memory_bytes_per_s=200e9,
        read_ahead_bytes=2**20,
    )
    for bad, message in (
        ("", "the rates ''"),
        ("device=3GB/s", "no link and no compute"),
        ("device=3,link=1GB/s,compute=1TFLOP/s", "'3' is no rate"),
        (f"{RATES},link=1GB/s", r"cannot read the rates '.*,link=1GB/s'"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            parse_rates(bad)
    with pytest.raises(InvalidArgumentError, match="10TFLOP/s"):
        parse_rates(RATES.replace("TFLOP/s", "TB/s"))


def test_a_prefix_of_a_pipeline():
    pipeline = Pipeline.parse("offload-kv,host-dot,offload-kv,lower-to-ffi")
    assert str(pipeline.until("offload-kv")) == "offload-kv"
    assert str(pipeline.until("host-dot")) == "offload-kv,host-dot"
