"""The other end of `chat_worker`: conversations rendered in another process."""

from __future__ import annotations

import json
from typing import Any

from nspjax.errors import RequestError
from nspjax.generate.limited_process.parent import LimitedProcess, ProcessDiedError
from nspjax.generate.text.chat_worker import FAILED, MEMORY_BYTES, MOST_CHARACTERS, REFUSED

RENDER_SECONDS = 10.0
"""The longest that one conversation may take; ordinary ones take milliseconds."""
_MOST_ANSWER_BYTES = 4 * MOST_CHARACTERS + 1  # 4: of a character in UTF-8


class ChatProcess:
    """Renders conversations in another process, which is started for the first of them."""

    def __init__(self) -> None:
        self._process = LimitedProcess(
            "nspjax.generate.text.chat_worker",
            task="the process that renders chat templates",
            most_answer_bytes=_MOST_ANSWER_BYTES,
        )

    def render(self, template: str, messages: list[Any], variables: dict[str, Any]) -> str:
        """The text that the template makes. variables: what it sees besides the messages.

        Raises:
          RequestError: the template refused or failed, or exceeded a limit.
          NspjaxError: the process cannot be started.
        """
        try:
            request = json.dumps(
                {"template": template, "messages": messages, "variables": variables}
            ).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(
                f"a conversation must be of JSON values: {error}", param="messages"
            ) from error
        try:
            answer = self._process.ask(request, seconds=RENDER_SECONDS)
        except TimeoutError:
            raise RequestError(
                f"the model's chat template took more than {RENDER_SECONDS:g} s for the messages",
                param="messages",
            ) from None
        except ProcessDiedError as how:
            raise RequestError(
                f"the model's chat template ended its process ({how}) at the messages; it may use "
                f"{MEMORY_BYTES >> 20} MiB",
                param="messages",
            ) from None
        kind, content = answer[:1], answer[1:].decode(errors="surrogatepass")
        if kind == REFUSED:
            raise RequestError(
                f"the model's chat template refuses the messages: {content}", param="messages"
            )
        if kind == FAILED:
            raise RequestError(
                f"the model's chat template fails at the messages: {content}", param="messages"
            )
        return content

    def close(self) -> None:
        """End the process. The next conversation would start another."""
        self._process.close()
