"""Compiled programs, kept from one job to the next: JAX's persistent compilation cache.

JAX writes an entry in place, so one that a kill or a full disk cut stays cut. `tidy` throws such
entries away before a job begins, and the least recently used ones where there are too many.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

from nspjax.errors import BatchFileError, InvalidArgumentError

NONE = "none"

_MOST_BYTES = 1 << 30
_ENTRIES = "*-cache"
_MARK = "checked"
"""A file that is as old as the last `tidy`."""


@contextlib.contextmanager
def compilation_cache(directory: str | None) -> Iterator[None]:
    """Let JAX keep what it compiles. Enter it before anything is compiled.

    directory: None: the user's cache directory, unless the environment says to JAX what to do;
      "none": nothing is kept.

    Raises:
      InvalidArgumentError: a directory that was named cannot be used. The user's own is then done
        without, with a warning.
    """
    import jax

    if directory is None and "JAX_COMPILATION_CACHE_DIR" in os.environ:
        yield
        return
    settings: dict[str, object] = {"jax_compilation_cache_dir": _usable(directory)}
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        settings["jax_persistent_cache_min_compile_time_secs"] = 0.0
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def cache_directory(named: str | None) -> Path:
    """Where entries for this processor are. Programs are compiled for one kind of processor, and a
    home directory may be that of machines with several."""
    if named is None:
        caches = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(caches):  # so the specification has it
            caches = os.path.expanduser("~/.cache")
        base = Path(caches) / "nspjax" / "compiled"
    else:
        base = Path(named).expanduser()
    return base / f"{platform.machine()}-{_processor()}"


def tidy(directory: Path, most_bytes: int = _MOST_BYTES) -> None:
    """Remove entries that are not whole, of those written since the last time, and the least
    recently used ones beyond `most_bytes`. Other jobs may use the directory meanwhile.

    Raises:
      OSError: the directory cannot be read or written.
    """
    mark = directory / _MARK
    checked_ns = mark.stat().st_mtime_ns if mark.exists() else 0
    mark.touch()
    left: list[tuple[float, int, Path]] = []
    for entry in directory.glob(_ENTRIES):
        with contextlib.suppress(FileNotFoundError):  # another job was quicker
            found = entry.stat()
            if found.st_mtime_ns >= checked_ns and not _is_whole(entry.read_bytes()):
                entry.unlink()
            else:
                left.append((max(found.st_atime, found.st_mtime), found.st_size, entry))
    n_bytes = sum(size for _, size, _ in left)
    for _, size, entry in sorted(left):
        if n_bytes <= most_bytes:
            return
        entry.unlink(missing_ok=True)
        n_bytes -= size


def _usable(named: str | None) -> str | None:
    """The directory, made and tidied; None: there is to be none."""
    if named == NONE:
        return None
    directory = cache_directory(named)
    try:
        if named is None and not directory.is_absolute():
            raise FileNotFoundError(0, "this user has no home directory")
        directory.mkdir(0o700, parents=True, exist_ok=True)
        found = directory.stat()
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:  # what is in it will be run
            raise PermissionError(0, "others may write there")
        tidy(directory)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        if named is not None:
            raise InvalidArgumentError(
                f"--compilation-cache {named} cannot be used: {reason}; give a directory of yours, "
                f"or {NONE}"
            ) from error
        warnings.warn(
            f"compiled programs are not kept, as {directory} cannot be used: {reason}; "
            f"--compilation-cache takes another directory, or {NONE}",
            stacklevel=2,
        )
        return None
    return str(directory)


def _processor() -> str:
    """A name for what the processor can do."""
    features = platform.processor()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(" ".join(sorted(features.split())).encode()).hexdigest()[:12]


def _is_whole(entry: bytes) -> bool:
    from io import BytesIO

    from nspjax.generate.batch import compression

    try:
        if compression.compression_of(entry) is None:
            zlib.decompress(entry)
        else:
            with compression.damage("an entry"):
                compression.reader(BytesIO(entry)).read()
    except zlib.error:
        return False
    except BatchFileError as error:
        return error.__cause__ is None  # zstd is not installed: nobody can tell
    return True
