"""Imports and includes go one way: CONTRIBUTING.md's table for Python, ENGINE for C++."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ENGINE = [
    {"base"},
    {"format"},
    {"attention", "dot", "io"},
    {"device"},
    {"weights"},
    {"store"},
    {"calls"},
    {"bindings"},
]
"""The folders of csrc from the lowest up: each may include what is below it, and itself."""
NO_ENGINE = {"tests", "xrt_emulator"}
"""Folders of csrc that are no part of the engine, and may include anything."""


def table() -> dict[str, set[str]]:
    """What each package of nspjax may import of the others, as CONTRIBUTING.md says."""
    rows = re.findall(
        r"^\| `nspjax/(\w+)` \|[^|]*\|([^|]*)\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.M
    )
    return {name: set(re.findall(r"`(\w+)`", may_import)) for name, may_import in rows}


PACKAGES = sorted(path.parent.name for path in (ROOT / "nspjax").glob("*/__init__.py"))
MODULES = {path.stem for path in (ROOT / "nspjax").glob("*.py")} | {"__version__", ""}
"""What is directly in nspjax, and nspjax itself."""
OF_ENGINE = {"dtypes": {"_engine"}}
"""Those that give out a table of the engine's, which has it once."""


def imported(source: Path) -> list[tuple[int, str]]:
    """Lines and full names of all that a file imports, wherever in it."""
    found = []
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}:{node.lineno}: import by the full name"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "nspjax":
            found.append((node.lineno, f"nspjax.{node.attr}"))  # after `import nspjax`
    return found


def packages_of_ours(source: Path) -> list[tuple[int, str]]:
    """Those of nspjax's packages, and the engine, that a file imports, with the lines."""
    public = public_names()
    found = []
    for line, name in imported(source):
        top, _, rest = name.partition(".")
        first = rest.partition(".")[0]
        first = public.get(first, first)
        if top == "nspjax" and first not in MODULES:
            found.append((line, first))
    return found


def public_names() -> dict[str, str]:
    """`nspjax.X` -> the package that has it."""
    import nspjax

    return {name: where.split(".")[1] for name, where in nspjax._PUBLIC.items()}


def test_the_table_has_every_package_and_goes_one_way():
    rows = table()
    assert sorted(rows) == PACKAGES, "each package of nspjax has a row in CONTRIBUTING.md"
    above: set[str] = {"_engine"}
    for name, may_import in rows.items():
        assert may_import <= above, f"{name} may import only packages of rows above its own"
        above.add(name)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_what_the_table_lets_it(package):
    allowed = table()[package] | {package}
    used = {package}
    for source in sorted((ROOT / "nspjax" / package).rglob("*.py")):
        for line, name in packages_of_ours(source):
            assert name in allowed, (
                f"{source.relative_to(ROOT)}:{line} imports {name}, which {package} may not: move "
                "it, or what it needs, or change the table in CONTRIBUTING.md"
            )
            used.add(name)
    assert used == allowed, f"{package} does not import {allowed - used}: take it out of the table"


def test_the_modules_that_all_may_import_import_no_package():
    for name in MODULES - {"__init__", "__main__", "__version__", ""}:
        packages = {package for _, package in packages_of_ours(ROOT / "nspjax" / f"{name}.py")}
        assert packages <= OF_ENGINE.get(name, set())


def test_only_one_folder_imports_mlir():
    for source in (ROOT / "nspjax").rglob("*.py"):
        if not source.is_relative_to(ROOT / "nspjax/compiler/mlir"):
            for line, name in imported(source):
                assert ".mlir" not in name.replace("nspjax.compiler.mlir", ""), f"{source}:{line}"


def engine_folders() -> list[str]:
    return sorted(path.name for path in (ROOT / "csrc").iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", engine_folders())
def test_includes_go_down(folder):
    if folder in NO_ENGINE:
        return
    levels = {name: level for level, names in enumerate(ENGINE) for name in names}
    assert folder in levels, f"csrc/{folder} is new: say in ENGINE of {__file__} where it stands"
    checked = 0
    for source in sorted((ROOT / "csrc" / folder).rglob("*")):
        if source.suffix not in (".h", ".cc"):
            continue
        for path in re.findall(r'^#include "(.+)"$', source.read_text(), re.M):
            of = path.partition("/")[0]
            if not (ROOT / "csrc" / path).is_file():
                continue  # of XLA, of hls_kernels
            assert of == folder or levels.get(of, len(levels)) < levels[folder], (
                f"{source.relative_to(ROOT)} includes {path}: {of} is not below {folder}"
            )
            checked += 1
    assert checked, f"no include of csrc/{folder} was found: are they still written as here?"
