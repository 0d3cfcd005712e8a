"""Figures whose horizontal axis is a number of devices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nspjax.byte_size import parse_bytes


def by_devices(axes: Axes, counts: Sequence[int], *, x: str, y: str) -> None:
    """Scale and name the axes of what was measured with these numbers of devices."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def gb_per_second(rate: str) -> float:
    """Of "0.5GB/s"."""
    return parse_bytes(rate.removesuffix("/s")) / 1e9
