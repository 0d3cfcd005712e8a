"""The code in docs/unmarked-models.md runs."""

import re
from pathlib import Path

DOC = Path(__file__).parents[2] / "docs" / "unmarked-models.md"


def test_the_example_runs():
    blocks = re.findall(r"```python\n(.*?)```", DOC.read_text(), re.DOTALL)
    assert len(blocks) == 1
    exec(compile(blocks[0], str(DOC), "exec"), {})
