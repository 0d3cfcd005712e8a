"""300 request lines of every kind (`lines.jsonl`), who answers them, and what answers must be."""

import pytest

pytest.register_assert_rewrite(
    *(f"request_lines.{name}" for name in ("choices", "expected", "logprobs", "sampling"))
)
