"""The pass driver: a pipeline is a tuple of passes, written `a,b{option=1}` as text."""

from __future__ import annotations

import dataclasses
import enum
import re
import time
import typing
from collections.abc import Callable
from pathlib import Path

from nspjax.compiler import mlir
from nspjax.compiler.driver.presets import PRESETS
from nspjax.compiler.passes import pass_names, registered_pass
from nspjax.errors import CompilerError, PipelineError

MOST_CHARACTERS = 10_000
_PASS = re.compile(r"\s*([\w-]+)\s*(?:\{([^{}]*)\})?\s*(,|$)")
_OPTION = re.compile(r"\s*([\w-]+)\s*=\s*([^\s=]+)\s*$")


class Pass(typing.Protocol):
    """A frozen dataclass whose fields are its options: valid module in, valid module out."""

    name: typing.ClassVar[str]

    def run(self, module: mlir.Module) -> mlir.Module: ...


@dataclasses.dataclass(frozen=True)
class PassReport:
    """What one pass did: the module as it is now, and the time it took."""

    index: int
    name: str
    module: mlir.Module
    run_us: float


Observer = Callable[[PassReport], None]


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Passes in the order in which they run."""

    passes: tuple[Pass, ...]

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """The pipeline that `text` names: `offload-kv,lower-to-ffi`, options in braces; or a
        preset of `presets.PRESETS`.

        Raises:
          PipelineError: bad syntax, an unknown pass or option, or a value of the wrong type.
        """
        if len(text) > MOST_CHARACTERS:
            raise PipelineError(
                f"a pipeline has at most {MOST_CHARACTERS} characters, got {len(text)}: "
                f"{text[:50]!r}…"
            )
        text = PRESETS.get(text.strip(), text)
        passes, at = [], 0
        while at < len(text):
            found = _PASS.match(text, at)
            if found is None:
                raise PipelineError(
                    f"cannot read the pipeline {text!r} at {text[at:]!r}: "
                    "write pass,pass{option=value option=value}, or the name of a preset: "
                    f"{', '.join(PRESETS)}"
                )
            passes.append(_make(found[1], found[2] or ""))
            at = found.end()
        return cls(tuple(passes))

    def __str__(self) -> str:
        return ",".join(map(pass_text, self.passes))

    def until(self, name: str) -> Pipeline:
        """The passes up to the first one of this name, that one too.

        Raises:
          PipelineError: there is none.
        """
        names = [step.name for step in self.passes]
        if name not in names:
            raise PipelineError(f"the pipeline {str(self)!r} has no pass {name!r} to end with")
        return Pipeline(self.passes[: names.index(name) + 1])

    @property
    def writeback_interval_tokens(self) -> int | None:
        """What its caches should have as interval_tokens: its delay-writeback's interval.

        None: it has no such pass, or one that writes every token, which needs no small tiles.
        """
        intervals = [
            typing.cast(int, vars(step)["interval"])
            for step in self.passes
            if step.name == "delay-writeback"
        ]
        return intervals[0] if intervals and intervals[0] > 1 else None

    @property
    def may_keep_x(self) -> bool:
        """Whether rows may have X in place of K and V: then a cache alone does not hold them."""
        return any(
            step.name == "x-cache" and str(vars(step)["fraction"]) not in ("0", "0.0")
            for step in self.passes
        )

    def run(self, module: mlir.Module, observers: typing.Sequence[Observer] = ()) -> mlir.Module:
        """Run the passes, verifying after each; every observer sees every intermediate module.

        Right before lower-to-ffi, verify-schedule runs by itself.

        Raises:
          CompilerError: a pass refused the module, or left one that does not verify.
        """
        for index, step in enumerate(self.passes):
            begin = time.perf_counter()
            if step.name == "lower-to-ffi":
                module = registered_pass("verify-schedule")().run(module)
            module = step.run(module)
            _verify(module, step.name)
            report = PassReport(index, step.name, module, (time.perf_counter() - begin) * 1e6)
            for observe in observers:
                observe(report)
        return module


def pass_text(step: Pass) -> str:
    """A pass as `Pipeline.parse` reads it, with the options that differ from their defaults."""
    options = [
        f"{field.name.replace('_', '-')}={_text(getattr(step, field.name))}"
        for field in dataclasses.fields(step)  # pyright: ignore[reportArgumentType]
        if getattr(step, field.name) != field.default
    ]
    return step.name + ("{" + " ".join(options) + "}" if options else "")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _make(name: str, options_text: str) -> Pass:
    if name in PRESETS:
        raise PipelineError(f"{name!r} is a whole pipeline, not a pass: use it on its own")
    try:
        cls = registered_pass(name)
    except PipelineError as error:
        raise PipelineError(f"{error}; presets: {', '.join(PRESETS)}") from None
    kinds = typing.get_type_hints(cls)
    fields = {field.name: kinds[field.name] for field in dataclasses.fields(cls)}
    options = {}
    for item in (
        re.split(r"[\s,]+(?=[\w-]+\s*=)", options_text.strip()) if options_text.strip() else ()
    ):
        found = _OPTION.match(item)
        if found is None:
            raise PipelineError(f"{name}: cannot read the option {item!r}: write option=value")
        field = found[1].replace("-", "_")
        if field not in fields:
            known = ", ".join(sorted(fields)) or "none"
            raise PipelineError(f"{name} has no option {found[1]!r}; it has: {known}")
        options[field] = _value(name, field, found[2], fields[field])
    return cls(**options)


def _value(pass_name: str, option: str, text: str, kind: type) -> object:
    if kind is bool:
        if text in ("true", "false"):
            return text == "true"
    else:
        try:
            return kind(text)
        except ValueError:
            pass
    wanted = f"a {kind.__name__}"
    if issubclass(kind, enum.Enum):
        wanted = f"one of {', '.join(str(choice.value) for choice in kind)}"
    raise PipelineError(f"{pass_name}: {option} must be {wanted}, got {text!r}")


def _verify(module: mlir.Module, after: str) -> None:
    try:
        module.operation.verify()
    except Exception as error:  # MLIR's own error class is not public
        raise CompilerError(f"the module is invalid after {after}: {error}") from error


# ---- observers ----------------------------------------------------------------------------------


def dump_to(directory: Path) -> Observer:
    """Write each module to `directory` as `01-offload-kv.mlir`, `02-…`."""
    directory.mkdir(parents=True, exist_ok=True)

    def observe(report: PassReport) -> None:
        path = directory / f"{report.index + 1:02d}-{report.name}.mlir"
        path.write_text(f"{report.module}\n", encoding="utf-8")

    return observe


def print_after(names: str, write: Callable[[str], object] = print) -> Observer:
    """Print the module after the passes in the comma list `names`, or after `all`.

    Raises:
      PipelineError: there is no such pass.
    """
    wanted = set(names.split(","))
    if unknown := wanted - {"all", *pass_names()}:
        raise PipelineError(
            f"cannot print after {', '.join(sorted(unknown))}: say all, or some of "
            f"{', '.join(pass_names())}"
        )

    def observe(report: PassReport) -> None:
        if "all" in wanted or report.name in wanted:
            write(f"// ---- after {report.name} ({report.run_us / 1000:.1f} ms)\n{report.module}")

    return observe
