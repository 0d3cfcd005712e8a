"""Every exception that nspjax raises on purpose.

Each message says what was wrong, what was got, and what to do about it. The engine and its FFI
handlers report errors by the kind in brackets, `[nspjax:StaleHandle] …`; `from_engine_message`
turns such a message back into the class.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from nspjax.message_text import printable


class NspjaxError(Exception):
    """Base of all errors of this package. Its text can be printed, whatever bytes a path has."""

    def __init__(self, text: str = "") -> None:
        super().__init__(printable(text))


# ---- the store ----------------------------------------------------------------------------------


class StoreError(NspjaxError):
    """A store, one of its devices, or a handle to a cache in it."""


class StorePathError(StoreError):
    """A store's path is missing, is no directory, or cannot be written."""


class StoreBusyError(StoreError):
    """The store is open already, in this process or another."""


class StoreFullError(StoreError):
    """A device or the host-memory budget has too little room."""


class StoreDamagedError(StoreError):
    """What lies at the store's path is not ours, or its checksum is wrong."""


class StorageIOError(StoreError):
    """The operating system refused or failed a read or a write."""


class StaleHandleError(StoreError):
    """A cache handle was used twice: a KV cache in a store is linear."""


class StoreClosedError(StoreError):
    """A handle's store was closed, or its cache dropped."""


class AcceleratorError(StoreError):
    """A card, its runtime or its kernel cannot be used, or failed in the middle of a run."""


class InvalidArgumentError(NspjaxError, ValueError):
    """A value of the wrong shape, dtype or range."""


class EmulatorError(NspjaxError):
    """Cards cannot be emulated here: something is not installed, or a directory not usable."""


# ---- the compiler -------------------------------------------------------------------------------


class CompilerError(NspjaxError):
    """A pass refused a module, or a pipeline broke one."""


class OffloadError(CompilerError):
    """A KV cache is used by an operation that is not ours."""


class ScheduleError(CompilerError):
    """Passes left operations in an order, or with operands, that would give wrong results."""


class PipelineError(NspjaxError, ValueError):
    """A pipeline string that cannot be parsed, or names an unknown pass or option."""


# ---- models and requests ------------------------------------------------------------------------


class CheckpointError(NspjaxError):
    """A checkpoint with a missing or malformed file, or a tensor that is missing, surplus,
    misshapen or not finite."""


class UnsupportedModelError(CheckpointError):
    """An architecture, or a setting of one, that nspjax does not have."""


class RequestError(NspjaxError, ValueError):
    """A prompt or a sampling parameter that cannot be served. param: which, where it is one."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class NotFiniteError(NspjaxError):
    """A model's numbers became NaN or infinite, so that a request has no answer."""


class BatchFileError(NspjaxError):
    """A batch input or output file that cannot be used as it is."""


_ENGINE_MESSAGE = re.compile(r"\[nspjax:(\w+)\] (.*)", re.DOTALL)


def from_engine_message(text: str) -> NspjaxError | None:
    """The exception that an FFI error text stands for; None: the text is not the engine's."""
    found = _ENGINE_MESSAGE.search(text)
    if found is None:
        return None
    cls = globals().get(f"{found[1]}Error")
    if not (isinstance(cls, type) and issubclass(cls, NspjaxError)):
        cls = StoreError
    return cls(found[2].strip())


@contextlib.contextmanager
def engine_errors() -> Iterator[None]:
    """Raise the engine's errors as the classes above instead of as `JaxRuntimeError`.

    Wrap the call *and* the wait for its results: XLA reports a custom call's error in either, and
    as a JaxRuntimeError or a ValueError.
    """
    import jax

    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        ours = from_engine_message(str(error))
        if ours is None:
            raise
        raise ours from error
