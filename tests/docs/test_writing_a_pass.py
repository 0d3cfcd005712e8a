"""The code of docs/writing-a-pass.md runs as it stands."""

import re
from pathlib import Path

import pytest

from nspjax.compiler import passes

PAGE = Path(__file__).parents[2] / "docs" / "writing-a-pass.md"


@pytest.fixture
def no_passes_left(monkeypatch):
    monkeypatch.setattr(passes, "_users", dict(passes._users))


def code(name: str) -> str:
    marked = re.search(rf"<!-- code: {name} -->\n```python\n(.*?)```", PAGE.read_text(), re.S)
    assert marked, name
    return marked[1]


def test_the_page(no_passes_left, capsys):
    the_pass = code("the pass")
    assert len(the_pass.splitlines()) < 60
    # a dataclass asks for its module
    names = {"__name__": __name__}
    exec(the_pass, names)
    exec(code("the comparison"), names)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ans+writeback", "deepest-first"]
