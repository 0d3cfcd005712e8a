"""Python code that a user names on the command line: a module, or a file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from nspjax.errors import InvalidArgumentError, NspjaxError


def python_module(name: str) -> ModuleType:
    """The module `package.module` or `file.py`; it is run once however often it is named.

    Python looks for modules in the current directory first, or in that of the file. What it raises
    is not caught.

    Raises:
      InvalidArgumentError: a path that JAX cannot use.
    """
    if not name.endswith(".py"):
        if "" not in sys.path:
            sys.path.insert(0, "")
        return importlib.import_module(name)
    path = Path(name).resolve()
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(
            f"{path} is no path in UTF-8, and JAX cannot note where its functions are from: copy "
            "the file to one that is"
        ) from error
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    # a file may be called as a module that others need: then its path is its name
    module_name = path.stem if known is None else str(path)
    if module_name in sys.modules:
        return sys.modules[module_name]
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None
    made = sys.modules[module_name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(made)
    except BaseException:
        del sys.modules[module_name]
        raise
    return made


def import_all(names: Sequence[str]) -> None:
    """What `--import` does: run the modules or files, for the passes that they register.

    Raises:
      InvalidArgumentError: one cannot be imported.
    """
    for name in names:
        try:
            python_module(name)
        except (Exception, SystemExit) as error:
            raise InvalidArgumentError(f"--import {name}: {why(error)}") from error


def why(error: BaseException) -> str:
    """What a user's code raised, for a message."""
    if isinstance(error, NspjaxError):
        return str(error)
    return f"{type(error).__name__}: {error}; --debug shows where"
