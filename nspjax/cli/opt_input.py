"""What `nspjax opt` begins with: MLIR text, or a Python function and its arguments."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable
from typing import Any

from nspjax.compiler import mlir
from nspjax.compiler.driver.python_module import python_module, why
from nspjax.compiler.jit.marked_module import marked_module
from nspjax.errors import InvalidArgumentError

MOST_NESTING = 5000
_STEPS = {**dict.fromkeys("([{<", 1), **dict.fromkeys(")]}>", -1)}


def module_reader(source: str) -> Callable[[], mlir.Module]:
    """What reads the module in a file, or makes that of a Python function.

    A function's Python code is run already: it may register passes.

    Raises:
      InvalidArgumentError: it cannot be run; the reader: there is no module.
    """
    if source.endswith(".mlir") or ":" not in source or os.path.exists(source):
        return lambda: module_of_file(source)
    module_name = source.partition(":")[0]
    try:
        python_module(module_name)
    except (Exception, SystemExit) as error:
        raise InvalidArgumentError(f"cannot call {source}: {why(error)}") from error
    return lambda: module_of_function(source)


def module_of_file(path: str) -> mlir.Module:
    """The module in an .mlir file; "-" is stdin.

    Raises:
      InvalidArgumentError: there is no such file, or no module with a function main in it.
    """
    try:
        text = _text(path)
    except InvalidArgumentError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InvalidArgumentError(
            f"cannot read {path}: {reason}; give an .mlir file, or module:function"
        ) from error
    if _nesting(text) > MOST_NESTING:  # which would end the process: the parser calls itself
        raise InvalidArgumentError(f"{path} is no valid module: it is nested too deeply")
    try:
        module = mlir.parse(text)
    except Exception as error:  # MLIR's own error class is not public
        raise InvalidArgumentError(f"{path} is no valid module: {error}") from error
    main = mlir.functions(module).get("main")
    if main is None or not main.regions[0].blocks:  # or one that is declared, as elsewhere
        raise InvalidArgumentError(f"{path} has no function @main with a body: passes begin there")
    return module


def module_of_function(name: str) -> mlir.Module:
    """The module of `fn`, where `module:function` or `file.py:function` returns (fn, args).

    Raises:
      InvalidArgumentError: it cannot be imported, called or exported.
    """
    module_name, _, function_name = name.partition(":")
    try:
        make = python_module(module_name)
        for part in function_name.split("."):
            make = getattr(make, part)
        made = make()  # pyright: ignore[reportCallIssue]
    except (Exception, SystemExit) as error:
        raise InvalidArgumentError(f"cannot call {name}: {why(error)}") from error
    fn, args = _fn_and_args(name, made)
    try:
        return marked_module(fn, args).module
    except (Exception, SystemExit) as error:
        raise InvalidArgumentError(f"the function of {name} fails: {why(error)}") from error


def _text(path: str) -> str:
    if path == "-":
        return sys.stdin.buffer.read().decode()
    # a pipe is as good as a file: nspjax opt <(…)
    with open(path, encoding="utf-8") as file:
        if stat.S_ISCHR(os.fstat(file.fileno()).st_mode) and not file.isatty():
            raise InvalidArgumentError(f"{path} is a device, which may never end: give a file")
        return file.read()


def _nesting(text: str) -> int:
    """How deep brackets stand in one another, those in strings too."""
    depth = most = 0
    for bracket in re.finditer(r"->|[(\[{<]|[)\]}>]", text):
        depth = max(0, depth + _STEPS.get(bracket[0], 0))
        most = max(most, depth)
    return most


def _fn_and_args(name: str, made: Any) -> tuple[Any, tuple[Any, ...]]:
    if isinstance(made, tuple) and len(made) == 2:
        fn, args = made
        if callable(fn) and isinstance(args, tuple | list):
            return fn, tuple(args)
    raise InvalidArgumentError(
        f"{name} returned {type(made).__name__}: it must return (fn, args), a function and a tuple "
        "of its arguments: arrays, ShapeDtypeStructs, KVCaches of them"
    )
