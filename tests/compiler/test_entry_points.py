"""Passes of installed packages: found by name, imported when asked for, their errors named."""

import sys

import pytest

from nspjax.compiler import Pipeline, pass_names, passes, register_pass
from nspjax.errors import PipelineError

PASSES = """
import dataclasses
from typing import ClassVar

@dataclasses.dataclass(frozen=True)
class Shout:
    name: ClassVar[str] = "shout"
    times: int = 1

    def run(self, module):
        return module

@dataclasses.dataclass(frozen=True)
class Misnamed(Shout):
    name: ClassVar[str] = "whisper"
"""


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    monkeypatch.setattr(passes, "_users", {})


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that makes a distribution with entry points, as if pip had installed it."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(distribution, entry_points, module=PASSES):
        name = distribution.replace("-", "_")
        (tmp_path / f"{name}.py").write_text(module)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
        lines = [f"{key} = {value}" for key, value in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[nspjax.passes]", *lines, ""]))
        monkeypatch.delitem(sys.modules, name, raising=False)

    return make


def test_found_by_name(install):
    install("loud-passes", {"shout": "loud_passes:Shout"})
    assert "shout" in pass_names()
    (step,) = Pipeline.parse("shout{times=3}").passes
    assert (type(step).__module__, step.times) == ("loud_passes", 3)
    assert str(Pipeline((step,))) == "shout{times=3}"


def test_others_are_not_imported(install):
    install("bad-passes", {"bad": "bad_passes:Bad"}, "raise RuntimeError('imported')")
    install("loud-passes", {"shout": "loud_passes:Shout"})
    Pipeline.parse("shout,offload-kv")
    assert "bad" in pass_names()
    assert "bad_passes" not in sys.modules


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("loud_passes:Nope", "the pass 'shout' of loud-passes cannot be loaded from .* no attri"),
        ("no_such_module:Shout", "of loud-passes cannot be loaded .* ModuleNotFoundError"),
        ("loud_passes:Misnamed", "loud_passes:Misnamed of loud-passes is no pass 'shout'"),
        ("loud_passes:PASSES", "of loud-passes"),
    ],
)
def test_errors_name_the_distribution(install, value, message):
    install("loud-passes", {"shout": value})
    with pytest.raises(PipelineError, match=message):
        Pipeline.parse("shout")


def test_an_import_that_fails(install):
    install("bad-passes", {"bad": "bad_passes:Bad"}, "raise RuntimeError('no licence')")
    with pytest.raises(PipelineError, match=r"'bad' of bad-passes .* RuntimeError: no licence"):
        Pipeline.parse("bad")


def test_two_with_one_name(install):
    install("loud-passes", {"shout": "loud_passes:Shout"})
    install("other-passes", {"shout": "other_passes:Shout"})
    with pytest.raises(PipelineError, match="loud-passes and other-passes both have a pass"):
        Pipeline.parse("shout")


def test_ours_and_the_programs_own_come_first(install):
    install("loud-passes", {"shout": "loud_passes:Nope", "offload-kv": "loud_passes:Nope"})

    @register_pass
    class Mine:
        name = "shout"

    assert passes.registered_pass("shout") is Mine
    assert passes.registered_pass("offload-kv").__module__.startswith("nspjax.")
