"""What `nspjax opt` begins with: MLIR text, or a Python function and its arguments."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from nspjax.compiler import mlir
from nspjax.compiler.marked_module import marked_module
from nspjax.errors import InvalidArgumentError


def module_of_file(path: str) -> mlir.Module:
    """The module in an .mlir file; "-" is stdin.

    Raises:
      InvalidArgumentError: there is no such file, or no module with a function main in it.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InvalidArgumentError(
            f"cannot read {path}: {why}; give an .mlir file, or module:function"
        ) from error
    try:
        module = mlir.parse(text)
    except Exception as error:  # MLIR's own error class is not public
        raise InvalidArgumentError(f"{path} is no valid module: {error}") from error
    if "main" not in mlir.functions(module):
        raise InvalidArgumentError(f"{path} has no function @main: passes begin there")
    return module


def module_of_function(name: str) -> mlir.Module:
    """The module of `fn`, where `module:function` or `file.py:function` returns (fn, args).

    Python looks for modules in the current directory first, or in that of the file.

    Raises:
      InvalidArgumentError: it cannot be imported, called or exported.
    """
    module_name, _, function_name = name.partition(":")
    try:
        make = _imported(module_name)
        for part in function_name.split("."):
            make = getattr(make, part)
        made = make()  # pyright: ignore[reportCallIssue]
    except Exception as error:
        raise InvalidArgumentError(f"cannot call {name}: {_short(error)}") from error
    fn, args = _fn_and_args(name, made)
    try:
        return marked_module(fn, args).module
    except Exception as error:
        raise InvalidArgumentError(f"the function of {name} fails: {_short(error)}") from error


def _imported(module: str) -> Any:
    if not module.endswith(".py"):
        sys.path.insert(0, "")
        return importlib.import_module(module)
    path = Path(module)
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None
    made = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def _fn_and_args(name: str, made: Any) -> tuple[Any, tuple[Any, ...]]:
    if isinstance(made, tuple) and len(made) == 2:
        fn, args = made
        if callable(fn) and isinstance(args, tuple | list):
            return fn, tuple(args)
    raise InvalidArgumentError(
        f"{name} returned {type(made).__name__}: it must return (fn, args), a function and a tuple "
        "of its arguments: arrays, ShapeDtypeStructs, KVCaches of them"
    )


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}; --debug shows where"
