"""`nspjax opt`: run passes on a module and see what each makes of it."""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from nspjax.cli.exit_code import ExitCode
from nspjax.cli.output_file import check_output
from nspjax.errors import InvalidArgumentError, NspjaxError

if TYPE_CHECKING:
    from nspjax.compiler import Pipeline, mlir
    from nspjax.compiler.driver.pipeline import Observer
    from nspjax.compiler.machine.rates import Rates


@dataclasses.dataclass(frozen=True)
class Opt:
    """What was asked on the command line."""

    input: str
    pipeline: str | None = None
    """None: the default one"""
    output: str | None = None
    until: str | None = None
    print_ir_after: str = ""
    dump_dir: str | None = None
    table: bool = False
    graph: str | None = None
    rates: str | None = None
    context_tokens: int | None = None
    imports: tuple[str, ...] = ()
    debug: bool = False


def execute(options: Opt) -> int:
    """Run the passes: the module to stdout, the rest to stderr. Returns the exit code."""
    began = False
    try:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is run
        _check_files(options)
        from nspjax.cli.opt_input import module_reader
        from nspjax.compiler.driver.python_module import import_all

        import_all(options.imports)
        read = module_reader(options.input)
        pipeline, rates = _passes(options)
        module = read()
        if rates is not None:
            from nspjax.compiler.machine.rates import set_rates

            set_rates(module, rates)
        began = True
        _run(options, pipeline, module)
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        print(f"error: {_told(error)}", file=sys.stderr)
        return ExitCode.REFUSED if isinstance(error, NspjaxError) and not began else ExitCode.FAILED
    return ExitCode.DONE


def _check_files(options: Opt) -> None:
    """Refuse what cannot be written, before anything is loaded.

    Raises:
      InvalidArgumentError: one of them cannot be.
    """
    for option, path in (("-o", options.output), ("--graph", options.graph)):
        check_output(option, path, other_than=(options.input,))
    dump_dir = options.dump_dir
    if dump_dir is not None and not os.path.isdir(dump_dir):
        if os.path.exists(dump_dir):
            raise InvalidArgumentError(f"--dump-dir {dump_dir} is no directory")
        try:
            os.makedirs(dump_dir)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise InvalidArgumentError(f"--dump-dir {dump_dir} cannot be made: {why}") from error


def _passes(options: Opt) -> tuple[Pipeline, Rates | None]:
    """The passes and rates that were asked for.

    Raises:
      InvalidArgumentError, PipelineError: an option that cannot be served.
    """
    from nspjax.cli.rates_option import parse_rates
    from nspjax.compiler import DEFAULT_PIPELINE, Pipeline
    from nspjax.compiler.driver.pipeline import print_after

    text = DEFAULT_PIPELINE if options.pipeline is None else options.pipeline
    pipeline = Pipeline.parse(text)
    if options.until is not None:
        pipeline = pipeline.until(options.until)
    if options.print_ir_after:
        print_after(options.print_ir_after)
    return pipeline, None if options.rates is None else parse_rates(options.rates)


def _run(options: Opt, pipeline: Pipeline, module: mlir.Module) -> None:
    from nspjax.cli.idle_passes import IdlePasses
    from nspjax.cli.pass_table import PassTable
    from nspjax.compiler.driver.pipeline import dump_to, print_after
    from nspjax.compiler.machine.costs import capacity_tokens

    context_tokens = options.context_tokens or capacity_tokens(module)
    observers: list[Observer] = []
    if options.print_ir_after:
        observers.append(print_after(options.print_ir_after, _print_to_stderr))
    if options.dump_dir is not None:
        observers.append(dump_to(Path(options.dump_dir)))
    table = PassTable(context_tokens) if options.table else None
    if table is not None:
        table.begin(module)
        observers.append(table.observe)
    idle = IdlePasses(module)
    observers.append(idle.observe)
    module = pipeline.run(module, observers)
    if options.graph is not None:
        Path(options.graph).write_text(_graph(module, context_tokens), encoding="utf-8")
    if table is not None:
        table.print()
    if idle.names:
        _print_to_stderr(f"nothing to do for {', '.join(idle.names)}")
    if options.output is None:
        sys.stdout.buffer.write(f"{module}\n".encode())
        sys.stdout.buffer.flush()  # else a full disk is noticed when nobody can say so
    else:
        Path(options.output).write_text(f"{module}\n", encoding="utf-8")


def _graph(module: mlir.Module, context_tokens: int | None) -> str:
    from nspjax.cli.rates_option import ASSUMED_RATES
    from nspjax.compiler.machine.picture import layers_svg
    from nspjax.compiler.machine.rates import rates_of
    from nspjax.compiler.machine.timeline import Schedule

    rates = rates_of(module) or ASSUMED_RATES
    return layers_svg(Schedule.of(module, context_tokens).on(rates), rates)


def _print_to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


def _told(error: Exception) -> str:
    if isinstance(error, NspjaxError):
        return str(error)
    if isinstance(error, OSError) and error.filename:
        return f"cannot use {error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EPIPE):
        return f"cannot write what was asked for: {error.strerror}"
    return (
        f"{type(error).__name__}: {error}\nThis was not foreseen; --debug shows where it happened"
    )
