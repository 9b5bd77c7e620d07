"""Line charts and intervals as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle

import numpy as np
from jaxtyping import Float

WIDTH, HEIGHT = 460, 270
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 44
COLOURS = ("#2b5c9e", "#b3622b", "#4a7d3c", "#7a4a8f", "#5a6272")
DASHES = ("", "6 4", "2 3", "8 3 2 3")
POINTS = 300
SMOOTHED = 25


def line_chart(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    title: str,
    x_label: str,
    y_label: str,
) -> str:
    """SVG with each series as a faint line of its values and a strong one of their running mean.

    Args:
        series: x and y values of each named series; values that are not finite are left out.
        title: What the chart shows, for a reader that cannot see it.
        x_label: Name and unit of x.
        y_label: Name and unit of y.
    """
    lines = {name: _finite(*values) for name, values in series.items()}
    lines = {name: line for name, line in lines.items() if len(line[0])}
    if not lines:
        return f'<p class="soft">{escape(title)}: no values.</p>'
    xs = np.concatenate([x for x, _ in lines.values()])
    ys = np.concatenate([y for _, y in lines.values()])
    x_ticks, y_ticks = _ticks(xs.min(), xs.max()), _ticks(min(0.0, ys.min()), ys.max())
    body = [_axes(x_ticks, y_ticks, x_label, y_label)]
    for (x, y), colour, dash in zip(lines.values(), cycle(COLOURS), cycle(DASHES)):
        for values, opacity, width in ((y, 0.28, 1.0), (_running_mean(y), 1.0, 2.0)):
            points = _points(x, values, x_ticks, y_ticks)
            body.append(
                f'<polyline class="line" points="{points}" stroke="{colour}" stroke-width="{width}"'
                f' stroke-opacity="{opacity}" stroke-dasharray="{dash if opacity == 1.0 else ""}"/>'
            )
    body.append(_legend(list(lines)))
    label = escape(title, quote=True)
    view = f"0 0 {WIDTH} {HEIGHT}"
    return f'<svg viewBox="{view}" role="img" aria-label="{label}">{"".join(body)}</svg>'


def interval(low: float, middle: float, high: float, label: str) -> str:
    """SVG of an interval around its middle with a line at zero, as wide as the interval needs."""
    reach = 1.15 * max(abs(low), abs(high), 1e-9)
    x = [55 + 50 * value / reach for value in (low, middle, high)]
    colour = "#5a6272" if low <= 0 <= high else "#1d2330"
    return (
        f'<svg viewBox="0 0 110 20" role="img" aria-label="{escape(label, quote=True)}">'
        f'<line x1="55" y1="1" x2="55" y2="19" stroke="#b9b5ac" stroke-dasharray="2 2"/>'
        f'<line x1="{x[0]:.1f}" y1="10" x2="{x[2]:.1f}" y2="10" stroke="{colour}"'
        f' stroke-width="2"/>'
        f'<circle cx="{x[1]:.1f}" cy="10" r="3.5" fill="{colour}"/></svg>'
    )


def _finite(
    x: Sequence[float], y: Sequence[float]
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    known = np.isfinite(xs) & np.isfinite(ys)
    return xs[known], ys[known]


def _running_mean(y: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Mean of the values around each one; windows at the ends are shorter."""
    window = np.ones(min(SMOOTHED, max(1, len(y) // 4)))
    count = np.convolve(np.ones(len(y)), window, "same")
    return np.convolve(y, window, "same") / count


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`, four to seven of them."""
    span = high - low or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 4))
    step = next(step * k for k in (1, 2, 5, 10) if span / (step * k) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(float(k * step), 10) for k in range(first, max(last, first + 1) + 1)]


def _place(value: float, ticks: Sequence[float], start: int, end: int) -> float:
    return start + (end - start) * (value - ticks[0]) / (ticks[-1] - ticks[0])


def _points(
    x: Float[np.ndarray, " N"],
    y: Float[np.ndarray, " N"],
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
) -> str:
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), POINTS)).round().astype(int))
    return " ".join(
        f"{_place(x[k], x_ticks, LEFT, WIDTH - RIGHT):.1f},"
        f"{_place(y[k], y_ticks, HEIGHT - BOTTOM, TOP):.1f}"
        for k in kept
    )


def _axes(x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str) -> str:
    floor, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{floor}H{right}"/>']
    for value in y_ticks:
        y = _place(value, y_ticks, floor, TOP)
        parts.append(f'<path class="axis" d="M{LEFT} {y:.1f}H{right}" stroke-opacity=".3"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in x_ticks:
        x = _place(value, x_ticks, LEFT, right)
        parts.append(f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="middle">{value:g}</text>')
    middle = (LEFT + right) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
    )
    turned = f'transform="rotate(-90 13 {floor / 2})"'
    parts.append(
        f'<text x="13" y="{floor / 2}" text-anchor="middle" {turned}>{escape(y_label)}</text>'
    )
    return "".join(parts)


def _legend(names: Sequence[str]) -> str:
    parts = []
    for row, (name, colour, dash) in enumerate(zip(names, cycle(COLOURS), cycle(DASHES))):
        y = TOP + 10 + 17 * row
        parts.append(
            f'<line x1="{WIDTH - 40}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}" stroke="{colour}"'
            f' stroke-width="2" stroke-dasharray="{dash}"/>'
            f'<text x="{WIDTH - 46}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
        )
    return "".join(parts)
