"""A field of a request's body that cannot be served."""

from __future__ import annotations

from nspjax.errors import RequestError


class FieldError(RequestError):
    """A request that cannot be served as asked. code, param: as in OpenAI's error objects."""

    def __init__(self, message: str, *, code: str = "invalid_value", param: str | None = None):
        super().__init__(message, param=param)
        self.code = code
