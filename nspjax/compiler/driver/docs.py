"""What passes and their options say of themselves; as a script, it writes docs/passes.md.

A pass's docstring is its text; the string after a field is the text of that option:

    @dataclasses.dataclass(frozen=True)
    class Prefetch:
        \"\"\"Read the next layers' tiles ahead.\"\"\"

        name: ClassVar[str] = "prefetch"
        distance: int = 1
        \"\"\"so many layers ahead\"\"\"
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import textwrap
import typing
from typing import Any

from nspjax.compiler.driver.presets import PRESETS
from nspjax.compiler.passes import our_passes


@dataclasses.dataclass(frozen=True)
class OptionDoc:
    """One option of a pass, as a pipeline string has it. text: "" where it has none."""

    name: str
    type: str
    default: str
    text: str


@dataclasses.dataclass(frozen=True)
class PassDoc:
    """A pass: its name, its docstring, its options."""

    name: str
    text: str
    options: tuple[OptionDoc, ...]


def pass_doc(cls: Any) -> PassDoc:
    """What a pass's class says of itself."""
    texts, kinds = _field_texts(cls), typing.get_type_hints(cls)
    options = tuple(
        OptionDoc(
            field.name.replace("_", "-"),
            _type_text(kinds[field.name]),
            _default_text(field),
            texts.get(field.name, ""),
        )
        for field in dataclasses.fields(cls)
    )
    return PassDoc(cls.name, inspect.cleandoc(cls.__doc__ or ""), options)


def passes_markdown() -> str:
    """docs/passes.md."""
    sections = [_section(pass_doc(cls)) for cls in our_passes()]
    presets = [f"| `{name}` | `{pipeline}` |" for name, pipeline in PRESETS.items()]
    return "\n".join([_HEAD, *presets, "", *sections])


_HEAD = """\
# The passes

<!-- made by `python -m nspjax.compiler.driver.docs > docs/passes.md`; a test compares -->

A pipeline is text, `pass,pass{option=value option=value}`, in the order in which the passes run.
`nspjax opt` runs one on a module and shows what each pass makes of it. Here are nspjax's own
passes, in the order in which a pipeline has them; [writing-a-pass.md](writing-a-pass.md) says how
to write another. A preset's name stands for a whole pipeline:

| preset | pipeline |
|---|---|"""


def _section(doc: PassDoc) -> str:
    lines = [f"## {doc.name}", doc.text, ""]
    if doc.options:
        lines += ["| option | type | default | |", "|---|---|---|---|"]
        lines += [
            f"| `{option.name}` | {option.type} | `{option.default}` | {_one_line(option.text)} |"
            for option in doc.options
        ]
        lines.append("")
    return "\n".join(lines)


def _field_texts(cls: Any) -> dict[str, str]:
    """The strings that stand after fields, those of base classes too."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):  # made in an interpreter: there is no source
            continue
        (body,) = ast.parse(textwrap.dedent(source)).body
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[field.target.id] = inspect.cleandoc(after.value.value)
    return found


def _type_text(kind: Any) -> str:
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    if not choices and isinstance(kind, type) and issubclass(kind, enum.Enum):
        choices = tuple(member.value for member in kind)
    if choices:
        return " or ".join(f"`{choice}`" for choice in choices)
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _default_text(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "none: it must be given"
    default = str(field.default)
    return default.lower() if isinstance(field.default, bool) else default or '""'


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(passes_markdown(), end="")
