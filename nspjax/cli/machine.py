"""What is installed, and what the machine has."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import re
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class EngineInfo:
    """How the engine was built, and which of its kernels this CPU runs."""

    io_uring: bool
    ffi_api_minor_version: int
    compiler: str
    kernels: list[str]
    """the best first"""
    xrt: bool
    """whether the plug-in for cards was built"""


@dataclasses.dataclass(frozen=True)
class MachineInfo:
    """What this process may use of the machine."""

    cpu: str
    cores: int
    memory_bytes: int
    available_memory_bytes: int


def versions() -> dict[str, str | None]:
    """Of nspjax, Python and what it is built on, without importing them; None: not installed."""
    from nspjax import __version__

    found = {"nspjax": __version__, "python": platform.python_version()}
    return found | {name: _version(name) for name in ("jax", "jaxlib", "flax", "numpy")}


def engine_info() -> EngineInfo:
    from nspjax import _engine

    build = _engine.build_info()
    return EngineInfo(
        build["uring"],
        build["ffi_api_minor_version"],
        build["compiler"],
        _engine.available_kernels(),
        build["xrt"],
    )


def machine_info() -> MachineInfo:
    memory = Path("/proc/meminfo").read_text()
    return MachineInfo(
        _field("model name", Path("/proc/cpuinfo").read_text(errors="replace"))
        or platform.machine(),
        len(os.sched_getaffinity(0)),
        _kib("MemTotal", memory) * 1024,
        _kib("MemAvailable", memory) * 1024,
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _field(name: str, text: str) -> str | None:
    found = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return found and found[1].strip()


def _kib(name: str, meminfo: str) -> int:
    return int((_field(name, meminfo) or "0 kB").split()[0])
