"""The README's snippet for a model of one's own runs as it stands."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_snippet_runs():
    marked = re.search(
        r"<!-- tested by tests/test_readme.py -->\n```python\n(.*?)```", README.read_text(), re.S
    )
    assert marked
    names = {}
    exec(marked[1], names)
    assert names["near_storage"].shape == names["in_memory"].shape
