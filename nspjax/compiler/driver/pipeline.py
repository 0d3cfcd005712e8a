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
from nspjax.compiler.driver.properties import Properties
from nspjax.compiler.nsp import Stage
from nspjax.compiler.nsp.hazards import check_schedule
from nspjax.compiler.nsp.verify import Verifier
from nspjax.compiler.passes import pass_names, registered_pass
from nspjax.compiler.passes.options import option_name
from nspjax.errors import CompilerError, PipelineError

MOST_CHARACTERS = 10_000
_PASS = re.compile(r"\s*([\w-]+)\s*(?:\{([^{}]*)\})?\s*(,|$)")
_OPTION = re.compile(r"\s*([\w-]+)\s*=\s*([^\s=]+)\s*$")


class Pass(typing.Protocol):
    """A frozen dataclass whose fields are its options: valid module in, valid module out. What else
    it may declare is in `Properties`."""

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
    """Passes in the order in which they run.

    Raises:
      PipelineError: they cannot run in this order.
    """

    passes: tuple[Pass, ...]

    def __post_init__(self) -> None:
        _check_order(self.passes)

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
        """What its caches should have as interval_tokens; None: no pass asks for small tiles."""
        intervals = [Properties.of(step).interval_tokens for step in self.passes]
        return next((interval for interval in intervals if interval is not None), None)

    @property
    def may_keep_x(self) -> bool:
        """Whether rows may have X in place of K and V: then a cache alone does not hold them."""
        return any(Properties.of(step).keeps_x for step in self.passes)

    @property
    def needs_sketches(self) -> bool:
        """Whether its caches must be made with `sketch=True`."""
        return any(Properties.of(step).needs_sketches for step in self.passes)

    @property
    def needs_rates(self) -> bool:
        """Whether a pass plans with the machine's rates, which may have to be measured first."""
        return any(Properties.of(step).needs_rates for step in self.passes)

    def including(self, step: Pass) -> Pipeline:
        """With a further pass, before all that must come after it; itself if it has it already."""
        if any(other.name == step.name for other in self.passes):
            return self
        stage = Properties.of(step).stage

        def comes_later(other: Pass) -> bool:
            found = Properties.of(other)
            is_further = stage is not None and found.stage is not None and found.stage > stage
            return step.name in found.after or is_further

        later = (i for i, other in enumerate(self.passes) if comes_later(other))
        at = next(later, len(self.passes))
        return Pipeline((*self.passes[:at], step, *self.passes[at:]))

    def run(self, module: mlir.Module, observers: typing.Sequence[Observer] = ()) -> mlir.Module:
        """Run the passes, verifying after each; every observer sees every intermediate module.

        Before a module is lowered, its schedule is checked as verify-schedule does it.

        Raises:
          CompilerError: a pass refused the module, or left one that does not verify.
        """
        stage, verifier = None, Verifier()
        for index, step in enumerate(self.passes):
            begin = time.perf_counter()
            stage = Properties.of(step).stage or stage
            if stage is Stage.LOWERED:
                check_schedule(module)
            module = step.run(module)
            _verify(module, stage, verifier, step.name)
            report = PassReport(index, step.name, module, (time.perf_counter() - begin) * 1e6)
            for observe in observers:
                observe(report)
        return module


def pass_text(step: Pass) -> str:
    """A pass as `Pipeline.parse` reads it, with the options that differ from their defaults."""
    options = [
        f"{option_name(field.name)}={_text(getattr(step, field.name))}"
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
    if issubclass(kind, enum.Enum):
        wanted = f"one of {', '.join(str(choice.value) for choice in kind)}"
    else:
        wanted = {bool: "true or false", int: "a whole number"}.get(kind, "a number")
    raise PipelineError(f"{pass_name}: {option_name(option)} must be {wanted}, got {text!r}")


def _check_order(passes: typing.Sequence[Pass]) -> None:
    _check_sparse(passes)
    brought: Pass | None = None
    for index, step in enumerate(passes):
        found = Properties.of(step)
        too_late = [other.name for other in passes[index:] if other.name in found.after]
        if too_late:
            raise PipelineError(
                f"{too_late[0]} stands after {step.name}, which needs what it makes: put "
                f"{too_late[0]} before {step.name}"
            )
        if found.stage is None:
            continue
        reached = None if brought is None else Properties.of(brought).stage
        if brought is not None and reached is not None and found.stage < reached:
            raise PipelineError(
                f"{step.name} stands after {brought.name}, and finds nothing there of what it "
                f"works on: put {step.name} before {brought.name}"
            )
        brought = step


def _check_sparse(passes: typing.Sequence[Pass]) -> None:
    sparse = [step.name for step in passes if Properties.of(step).needs_sketches]
    if not sparse:
        return
    for step in passes:
        if Properties.of(step).keeps_x:
            raise PipelineError(
                f"{sparse[0]} scores K that host memory keeps, and {step.name} keeps X in its "
                "place: take one of the two, or x-cache{fraction=0}"
            )
        if Properties.of(step).hauls:
            raise PipelineError(
                f"{sparse[0]} reads a part of V, and {step.name} brings all of K and V to the "
                "compute device: take one of the two"
            )


def _verify(module: mlir.Module, stage: Stage | None, verifier: Verifier, after: str) -> None:
    try:
        module.operation.verify()
    except Exception as error:  # MLIR's own error class is not public
        raise CompilerError(f"the module is invalid after {after}: {error}") from error
    try:
        verifier.module(module, stage)
    except CompilerError as error:
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
