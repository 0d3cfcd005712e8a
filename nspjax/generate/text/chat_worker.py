"""The process in which chat templates run: `python -m nspjax.generate.text.chat_worker`.

A template is a program of the checkpoint's. It is sandboxed, but it may not end, may use any amount
of memory and may crash the interpreter: only a process of its own can be stopped for sure.
`chat_process` starts it, and speaks to it through a socket that is its standard input: each message
is its length in 8 bytes and that many bytes.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nspjax.generate.text.chat_forms import ContentForms, Message, render_fitting
from nspjax.generate.text.library_errors import MOST_SHOWN, is_failure, told
from nspjax.message_text import shortened

MEMORY_BYTES = 1 << 30
"""What a template may use besides what the process has when it is ready."""
MOST_CHARACTERS = 32 << 20
"""The longest text of a conversation: more than any model's context."""
READY, TEXT, REFUSED, FAILED = b"R", b"T", b"N", b"F"
"""First byte of what the process sends: it is ready; a rendered text; a template's own
`raise_exception`; anything else that was raised."""

_PR_SET_PDEATHSIG = 1


def send(to: socket.socket, content: bytes) -> None:
    """One message."""
    to.sendall(len(content).to_bytes(8, "little") + content)


def receive(connection: socket.socket, most_bytes: int | None = None) -> bytes | None:
    """The next message; None: the other side has closed, or sends more than `most_bytes`."""
    head = _exactly(connection, 8)
    if head is None:
        return None
    n_bytes = int.from_bytes(head, "little")
    if most_bytes is not None and n_bytes > most_bytes:
        return None
    return _exactly(connection, n_bytes)


def _exactly(connection: socket.socket, n_bytes: int) -> bytes | None:
    content = bytearray(n_bytes)
    view = memoryview(content)
    while view:
        n_new = connection.recv_into(view)
        if n_new == 0:
            return None
        view = view[n_new:]
    return bytes(content)


def serve(connection: socket.socket) -> None:
    """Render what is asked until the other side closes."""
    from transformers.utils import chat_template_utils  # noqa: F401  # before memory is limited

    _limit_memory()
    send(connection, READY)
    forms: dict[str, ContentForms] = defaultdict(ContentForms)
    while (asked := receive(connection)) is not None:
        send(connection, _answer(asked, forms))


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


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _end_with_parent(parent_pid: int) -> None:
    """However the parent ends: one that was killed closes the socket, but a template that never
    ends does not see that."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit()


if __name__ == "__main__":
    _end_with_parent(int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(socket.socket(fileno=0))
