"""The process in which chat templates run: `python -m nspjax.generate.text.chat_worker`.

A template is a program of the checkpoint's. It is sandboxed, but it may not end, may use any amount
of memory and may crash the interpreter: only a process of its own can be stopped for sure.
`chat_process` is its other end.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from nspjax.generate.limited_process.child import run
from nspjax.generate.text.chat_forms import ContentForms, Message, render_fitting
from nspjax.generate.text.library_errors import MOST_SHOWN, is_failure, told
from nspjax.message_text import shortened

MEMORY_BYTES = 1 << 30
"""What a template may use besides what the process has when it is ready."""
MOST_CHARACTERS = 32 << 20
"""The longest text of a conversation: more than any model's context."""
TEXT, REFUSED, FAILED = b"T", b"N", b"F"
"""First byte of an answer: a rendered text; a template's own `raise_exception`; anything else that
was raised."""


def _answer(asked: bytes, forms: dict[str, ContentForms]) -> bytes:
    from jinja2.exceptions import TemplateError

    try:
        request = json.loads(asked)
        text = _render(request, forms[request["template"]])
        if len(text) > MOST_CHARACTERS:
            return FAILED + f"it wrote more than {MOST_CHARACTERS} characters".encode()
        return TEXT + text.encode(errors="surrogatepass")
    except MemoryError:
        return FAILED + f"it used more than {MEMORY_BYTES >> 20} MiB of memory".encode()
    except BaseException as error:
        if not is_failure(error):
            raise
        if type(error) is TemplateError:  # what raise_exception raises is of this very class
            return REFUSED + shortened(str(error), MOST_SHOWN).encode()
        return FAILED + told(error).encode()


def _render(request: dict[str, Any], forms: ContentForms) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(messages: Sequence[Message]) -> str:
        texts, _ = render_jinja_template(
            conversations=[list(messages)],  # pyright: ignore
            chat_template=request["template"],
            **request["variables"],
        )
        return texts[0]

    return render_fitting(render, request["messages"], forms)


if __name__ == "__main__":
    from transformers.utils import chat_template_utils  # noqa: F401  # before memory is limited

    forms: dict[str, ContentForms] = defaultdict(ContentForms)
    run(lambda asked: _answer(asked, forms), memory_bytes=MEMORY_BYTES)
