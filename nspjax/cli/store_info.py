"""What a store's directory lies on."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from nspjax.cli.cards import StoreCard, store_card
from nspjax.cli.machine import machine_info
from nspjax.errors import StorePathError
from nspjax.message_text import printable


@dataclasses.dataclass(frozen=True)
class StoreInfo:
    """A store's device as --store names it. What does not apply to memory is None."""

    spec: str
    kind: str
    free_bytes: int
    path: str | None = None
    file_system: str | None = None
    mount_point: str | None = None
    o_direct: bool | None = None
    """None: not known, since the directory cannot be written"""
    profile: dict[str, Any] | None = None
    """block_bytes, depth, read_gb_per_s, write_gb_per_s, source, note; None: none is kept"""
    card: StoreCard | None = None


def store_info(spec: str, *, measure: bool = False) -> StoreInfo:
    """What `spec` is: "memory:", a directory, "file:DIRECTORY", or one card, opened for a moment.

    measure: measure the drive and keep that, instead of showing what is kept.

    Raises:
      StorePathError: no directory.
      AcceleratorError: the card cannot be used, and why.
    """
    if spec == "memory:":
        return StoreInfo(spec, "memory", machine_info().available_memory_bytes)
    from nspjax import _engine

    card = None
    path = spec.removeprefix("file:")
    if spec.startswith("xrt:"):
        card, path = store_card(spec)
    if not os.path.isdir(path):
        what = "is no directory" if os.path.exists(path) else "does not exist"
        raise StorePathError(f'the store "{printable(spec)}" {what}: give an existing directory')
    room = os.statvfs(path)
    mount_point, file_system = mount_of(
        os.path.realpath(path), os.fsdecode(Path("/proc/self/mountinfo").read_bytes())
    )
    return StoreInfo(
        spec,
        "xrt" if card else "file",
        room.f_bavail * room.f_frsize,
        os.path.realpath(path),
        file_system,
        mount_point,
        has_o_direct(path),
        _engine.measure_profile(path) if measure else _engine.kept_profile(path),
        card,
    )


def mount_of(path: str, mountinfo: str) -> tuple[str, str]:
    """(mount point, file system) of an absolute path, from the text of /proc/self/mountinfo."""
    best = ("/", "unknown")
    for line in mountinfo.splitlines():
        mount, _, source = line.partition(" - ")
        fields = mount.split()
        if len(fields) < 5 or not source.strip():
            continue
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):  # of two at one place the later one is seen
            best = (point, source.split()[0])
    return best


def has_o_direct(directory: str) -> bool | None:
    """Whether files there can be read past the page cache; None: no file can be made there."""
    try:
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".nspjax.") as file:
            os.close(os.open(file.name, os.O_RDONLY | os.O_DIRECT))
    except OSError as error:
        return False if error.errno == errno.EINVAL else None
    return True
