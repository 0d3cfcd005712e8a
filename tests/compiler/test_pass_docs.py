"""docs/passes.md is what the passes say of themselves, and they all say something."""

import dataclasses
import enum
import runpy
from pathlib import Path
from typing import ClassVar, Literal

from nspjax.compiler.driver import docs as pass_docs
from nspjax.compiler.driver.docs import OptionDoc, pass_doc, passes_markdown
from nspjax.compiler.passes import our_passes

COMMITTED = Path(__file__).parents[2] / "docs/passes.md"


class Place(enum.StrEnum):
    anywhere = "anywhere"
    step_end = "step-end"


@dataclasses.dataclass(frozen=True)
class Base:
    """A base."""

    depth: int = 2
    """how deep"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe(Base):
    """Does nothing.

    And says so.
    """

    name: ClassVar[str] = "probe"
    """no option: it is the class's"""
    most_bytes: int
    """at most so much;
    a | b"""
    eager: bool = False
    place: Place = Place.anywhere
    """where"""
    how: Literal["slow", "quick"] = "slow"
    depth: int = 3


def test_what_a_pass_says():
    doc = pass_doc(Probe)
    assert (doc.name, doc.text) == ("probe", "Does nothing.\n\nAnd says so.")
    assert {option.name: option for option in doc.options} == {
        "depth": OptionDoc("depth", "int", "3", "how deep"),
        "most-bytes": OptionDoc(
            "most-bytes", "int", "none: it must be given", "at most so much;\na | b"
        ),
        "eager": OptionDoc("eager", "bool", "false", ""),
        "place": OptionDoc("place", "`anywhere` or `step-end`", "anywhere", "where"),
        "how": OptionDoc("how", "`slow` or `quick`", "slow", ""),
    }


def test_every_pass_and_option_has_a_text():
    docs = [pass_doc(cls) for cls in our_passes()]
    assert [doc.name for doc in docs if not doc.text] == []
    without = [(doc.name, option.name) for doc in docs for option in doc.options if not option.text]
    assert without == []


def test_the_committed_file_is_up_to_date():
    assert COMMITTED.read_text() == passes_markdown(), (
        "run: python -m nspjax.compiler.driver.docs > docs/passes.md"
    )


def test_as_a_script(capsys):
    runpy.run_path(pass_docs.__file__, run_name="__main__")
    assert capsys.readouterr().out == passes_markdown()
