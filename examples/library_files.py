"""The standard library's files: those that the example model was trained on, and the others."""

import hashlib
import sysconfig
from pathlib import Path

SKIPPED_FOLDERS = {"site-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}


def read_library() -> tuple[list[bytes], list[bytes]]:
    """The standard library's files (train, held out), without tests, tables and generated data."""
    root = Path(sysconfig.get_path("stdlib"))
    train: list[bytes] = []
    held_out: list[bytes] = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        generated = name.name.startswith("_sysconfigdata") or name.parts[0].startswith("config-")
        if generated or SKIPPED_FOLDERS & set(name.parts):
            continue
        digest = hashlib.sha256(name.as_posix().encode()).digest()
        if text := path.read_bytes():
            (held_out if digest[0] * 40 < 256 else train).append(text)
    return train, held_out
