"""Every file in filecheck/: run its pipeline, compare what comes out with its CHECK lines.

`// RUN: pipeline` names the passes; `// REFUSED: text` expects a CompilerError that holds the text;
`// REQUIRES: feature` skips the file on a CPU without it.
"""

import io
import re
from pathlib import Path

import pytest
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import Options
from filecheck.parser import Parser, pattern_for_opts

from nspjax import _engine
from nspjax.compiler import Pipeline, mlir
from nspjax.errors import CompilerError

FILES = sorted((Path(__file__).parent / "filecheck").glob("*.mlir"))

HAS = {"avx512-bf16": _engine.can_dot()}


def directive(name: str, text: str) -> str | None:
    found = re.search(rf"^// {name}: (.*)$", text, re.MULTILINE)
    return found[1] if found else None


def matches(checks: str, output: str) -> bool:
    options = Options(match_filename="checks")
    parser = Parser(options, io.StringIO(checks), *pattern_for_opts(options))
    return Matcher(options, FInput("output", output), parser).run() == 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_filecheck(path):
    text = path.read_text()
    if (feature := directive("REQUIRES", text)) and not HAS[feature]:
        pytest.skip(f"this CPU has no {feature}")
    pipeline = Pipeline.parse(directive("RUN", text) or "")
    assert pipeline.passes, "no RUN line"
    refusal = directive("REFUSED", text)
    if refusal:
        with pytest.raises(CompilerError, match=re.escape(refusal)):
            pipeline.run(mlir.parse(text))
        return
    assert "CHECK" in text
    assert matches(text, str(pipeline.run(mlir.parse(text))))


def test_the_matcher_can_fail():
    assert matches("// CHECK: one", "one")
    assert not matches("// CHECK: two", "one")
