"""Writes `lines.jsonl`; run it in tests/cli:

    python -m request_lines.make

A custom_id is a number and the kind of the line. `ERRORS` says what the refused ones are told.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from request_lines.answered import Body, answered, said
from request_lines.refused import broken_lines, refused_requests

FILE = Path(__file__).with_name("lines.jsonl")
URLS = {"completion": "/v1/completions", "chat": "/v1/chat/completions"}
PROMPTS = [
    "Say it.",
    "def main():\n    ",
    "日本 é",
    "the answer: ",
    "x",
    'say "ok"\tand\u2028 on 😀',
]


def lines() -> Iterator[tuple[str, str, Mapping[str, Any] | None]]:
    """custom_id, the line, and what it is told if it is refused."""
    number = itertools.count(1)
    texts = itertools.cycle(PROMPTS)
    for kind, endpoint, asked in answered():
        custom_id = f"{next(number):03} {endpoint}, {kind}"
        text = next(texts)
        body = {"prompt": text} if endpoint == "completion" else {"messages": [said(text)]}
        body |= {"max_tokens": 6, "return_token_ids": True, **asked}
        yield custom_id, _line(custom_id, URLS[endpoint], body), None
    for kind, url, body, error in refused_requests():
        custom_id = f"{next(number):03} refused, {kind}"
        yield custom_id, _line(custom_id, url, body), error
    for kind, template, error in broken_lines():
        custom_id = f"{next(number):03} broken, {kind}"
        yield custom_id, template.replace("ID", custom_id), error


def _line(custom_id: str, url: str, body: Body) -> str:
    line = {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
    return json.dumps(line, ensure_ascii=False)


def text() -> str:
    """The file."""
    return "".join(f"{line}\n" for _, line, _ in lines())


ERRORS = {custom_id: error for custom_id, _, error in lines() if error is not None}


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
