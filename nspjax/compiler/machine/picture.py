"""A timeline as a picture: one lane for each resource, time to the right, every box labelled."""

from __future__ import annotations

import dataclasses
from html import escape

from nspjax.compiler.machine.lanes import Lane, Span
from nspjax.compiler.machine.rates import Rates
from nspjax.compiler.machine.timeline import Timeline

_WIDTH = 1120
_LEFT = 84  # lanes' names
_RIGHT = 24
_TOP = 48
_BOX = 30  # height
_ROW = 15  # of the labels above a lane
_LETTER = 6.7  # width of one at 11 px
_COLORS = {
    Lane.compute: "#4c78a8",
    Lane.link: "#b279a2",
    Lane.device: "#59a14f",
    Lane.writes: "#e0873a",
}


def layers_svg(schedule: Timeline, rates: Rates, *, n_layers: int = 2) -> str:
    """An SVG of `n_layers` layers of a schedule, not the first one if there are more: then nothing
    is going on before it. All of it, where there are no more layers than that."""
    begins = schedule.layer_begins_s
    if len(begins) <= n_layers:
        begin_s, end_s, title = 0.0, schedule.end_s, "all of it"
    else:
        begin_s = begins[1]
        end_s = begins[1 + n_layers] if 1 + n_layers < len(begins) else schedule.end_s
        title = f"layers 1 to {n_layers} of {len(begins)}"
    shown = [
        dataclasses.replace(
            span,
            begin_s=max(span.begin_s, begin_s) - begin_s,
            end_s=min(span.end_s, end_s) - begin_s,
        )
        for span in schedule.spans
        if span.begin_s < end_s and span.end_s > begin_s
    ]
    scale = (_WIDTH - _LEFT - _RIGHT) / max(end_s - begin_s, 1e-12)
    parts, top = [], float(_TOP)
    for lane in Lane:
        lane_parts, top = _lane(lane, [s for s in shown if s.lane is lane], top, scale)
        parts += lane_parts
    parts += _axis(end_s - begin_s, top, scale)
    parts.insert(0, _text(_LEFT, 20, f"{title}; {_rates_text(rates)}", "start", 13))
    height = top + 44
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height:.0f}" '
        f'viewBox="0 0 {_WIDTH} {height:.0f}" font-family="sans-serif" font-size="11">'
    )
    white = f'<rect width="{_WIDTH}" height="{height:.0f}" fill="white"/>'
    return "\n".join([head, white, *parts, "</svg>", ""])


def _lane(lane: Lane, spans: list[Span], top: float, scale: float) -> tuple[list[str], float]:
    """The boxes of one lane under the labels that do not fit into theirs; and where it ends."""
    boxes = [(_LEFT + s.begin_s * scale, (s.end_s - s.begin_s) * scale, s) for s in spans]
    above = [(x + width / 2, s.label) for x, width, s in boxes if not _fits(s.label, width)]
    placed = _placed(above)
    n_rows = max((row + 1 for _, row, _, _ in placed), default=0)
    y = top + n_rows * _ROW
    parts = [
        f'<rect x="{_LEFT}" y="{y:.1f}" width="{_WIDTH - _LEFT - _RIGHT}" height="{_BOX}" '
        'fill="#f2f2f2"/>',
        _text(_LEFT - 8, y + _BOX / 2 + 4, lane.value, "end", 12),
    ]
    for x, width, span in boxes:
        hint = f"{span.label}: {_time_text(span.end_s - span.begin_s)}"
        parts.append(
            f'<rect x="{x:.2f}" y="{y:.1f}" width="{max(width, 0.75):.2f}" height="{_BOX}" '
            f'fill="{_COLORS[lane]}" stroke="white" stroke-width="0.5">'
            f"<title>{escape(hint)}</title></rect>"
        )
        if _fits(span.label, width):
            parts.append(_text(x + width / 2, y + _BOX / 2 + 4, span.label, "middle", 11, "white"))
    for at, row, label_x, label in placed:
        label_y = y - row * _ROW - 4
        parts.append(
            f'<path d="M{at:.1f} {y:.1f}V{label_y + 1:.1f}" stroke="{_COLORS[lane]}" '
            'stroke-width="0.7"/>'
        )
        parts.append(_text(label_x, label_y, label, "start", 11))
    return parts, y + _BOX + 14


def _fits(label: str, width: float) -> bool:
    return len(label) * _LETTER + 6 <= width


def _placed(labels: list[tuple[float, str]]) -> list[tuple[float, int, float, str]]:
    """(where its box is, row, where it begins, label), so that none is on another.

    From the right to the left, each label right of its line, in the lowest row where it neither
    meets another label nor the line of one.
    """
    free_until: list[float] = []
    placed = []
    for at, label in sorted(labels, reverse=True):
        width = len(label) * _LETTER
        begin = min(at + 3, _WIDTH - 4 - width)
        rows = enumerate(free_until)
        row = next((i for i, until in rows if begin + width + 4 <= until), len(free_until))
        if row == len(free_until):
            free_until.append(_WIDTH)
        free_until[: row + 1] = [min(at, begin)] * (row + 1)
        placed.append((at, row, begin, label))
    return placed


def _axis(seconds: float, y: float, scale: float) -> list[str]:
    step = _round_step(seconds / 8)
    parts = [f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#888"/>']
    for i in range(int(seconds / step + 1e-9) + 1):
        x = _LEFT + i * step * scale
        parts.append(f'<path d="M{x:.1f} {y:.1f}v5" stroke="#888"/>')
        parts.append(_text(x, y + 18, _time_text(i * step), "middle", 11))
    return parts


def _round_step(seconds: float) -> float:
    """1, 2 or 5 times a power of ten, at least `seconds`."""
    power = 1e-12
    while 10 * power < seconds:
        power *= 10
    return next(power * n for n in (1, 2, 5, 10) if power * n >= seconds or n == 10)


def _time_text(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= 0.9995 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns" if seconds else "0"


def _rates_text(rates: Rates) -> str:
    device, link = (_scaled(n) for n in (rates.device_bytes_per_s, rates.link_bytes_per_s))
    write = rates.write_bytes_per_s
    writes = f"writes {_scaled(write)}B/s" if write else "writes as fast as reads"
    compute = _scaled(rates.compute_flops)
    return f"device {device}B/s, {writes}, link {link}B/s, compute {compute}FLOP/s"


def _scaled(value: float) -> str:
    """With the prefix of a unit: 3e9 -> "3 G"."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g} "


def _text(x: float, y: float, text: str, anchor: str, size: int, fill: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{fill}">'
        f"{escape(text)}</text>"
    )
