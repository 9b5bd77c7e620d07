"""Pages drawn in memory, per second of one core, beside matplotlib; PNG encoding apart.

    OMP_NUM_THREADS=1 python -m benchmarks.pages             the sample's records, both sizes
    OMP_NUM_THREADS=1 python -m benchmarks.pages --records 5

The peer draws the same content: grid of 1 and 5 mm, four rows of traces, calibration, names, scale.
Time is what the process computed: a busy machine counts little. Ours and the peer take turns.
"""

from __future__ import annotations

import importlib.util
import io
import platform
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
from PIL import Image

from data_prep.layout import LAYOUTS, PAGE_S
from data_prep.records import Record, read
from data_prep.render import render
from data_prep.sample_index import sample_records

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPIS = (60, 200)  # 660 x 510 and 2200 x 1700 pixels
LEAST_PER_S = {60: 60.0, 200: 15.0}


def main(*, records: int = 20) -> int:
    """Print pages a second of ours and of matplotlib, their ratio, and the time of PNG encoding.

    Args:
        records: So many of the sample's, evenly chosen, are drawn once each.
    """
    every = sample_records()
    shown = [read(entry.path) for entry in every[:: max(1, len(every) // records)][:records]]
    peer = importlib.util.find_spec("matplotlib") is not None
    print(_versions(peer))
    print("page         gem_jax pages/s  PNG ms   matplotlib pages/s  PNG ms   ratio")
    enough = True
    for dpi in DPIS:
        ours, theirs = _pages_per_s(shown, dpi, peer)
        enough &= ours >= LEAST_PER_S[dpi]
        image = _ours(shown[0], dpi)
        line = f"{image.width}x{image.height:<6} {ours:>15.1f} {_png_ms(image):>7.1f}"
        if peer:
            png_ms = _png_ms(_theirs(shown[0], dpi))
            line += f" {theirs:>20.1f} {png_ms:>7.1f} {ours / theirs:>6.1f}x"
        print(line, flush=True)
    return 0 if enough else 1


def _versions(peer: bool) -> str:
    other = "matplotlib is not installed (pip install matplotlib): ours alone"
    if peer:
        import matplotlib

        other = f"matplotlib {matplotlib.__version__}"
    return f"Python {platform.python_version()}, Pillow {PIL.__version__}, {other}"


def _pages_per_s(records: list[Record], dpi: int, peer: bool) -> tuple[float, float]:
    """Pages a second of computing, ours and the peer's; the first page of each is not counted."""
    sides: tuple[Callable[[Record, int], Any], ...] = (_ours, _theirs) if peer else (_ours,)
    spent = [0.0, 0.0]
    for side in sides:
        side(records[0], dpi)
    for record in records:
        for i, side in enumerate(sides):
            start = time.process_time()
            side(record, dpi)
            spent[i] += time.process_time() - start
    return len(records) / spent[0], len(records) / spent[1] if peer else 0.0


def _png_ms(image: Image.Image) -> float:
    start = time.process_time()
    image.save(io.BytesIO(), "PNG")
    return 1000 * (time.process_time() - start)


def _ours(record: Record, dpi: int) -> Image.Image:
    return render(record, dpi=dpi).image


def _theirs(record: Record, dpi: int) -> Image.Image:
    """The page as one writes it with matplotlib: one axes in mm, grid as two collections."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width_mm, height_mm = 279.4, 215.9
    figure = Figure((width_mm / 25.4, height_mm / 25.4), dpi=dpi, facecolor="#fffdfb")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width_mm)
    axes.set_ylim(height_mm, 0)
    _their_grid(axes)
    _their_traces(axes, record)
    axes.text(5, 9.5, f"25 mm/s   10 mm/mV   {record.sampling_rate_hz:g} Hz", fontsize=9)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _their_grid(axes: Axes) -> None:
    from matplotlib.collections import LineCollection

    left, top, width, height = 4.7, 13.0, 270, 195
    for step, colour, line in ((1, "#fce2de", 0.3), (5, "#f3b2ac", 0.45)):
        x = left + np.arange(0, width + 1, step)
        y = top + np.arange(0, height + 1, step)
        lines = [((v, top), (v, top + height)) for v in x]
        lines += [((left, v), (left + width, v)) for v in y]
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=line))


def _their_traces(axes: Axes, record: Record) -> None:
    plan = LAYOUTS["3x4+1"]
    for row, leads in enumerate((*plan.rows, plan.rhythm)):
        zero_mm = 13 + 195 * (row + 0.55) / 4
        pulse = np.array([0, 0, 10, 10, 0, 0])
        axes.plot(4.7 + np.array([3, 5, 5, 10, 10, 12]), zero_mm - pulse, "#141620", lw=0.7)
        column_s = PAGE_S / len(leads)
        for column, lead in enumerate(leads):
            first, last = (round(column_s * (column + k) * record.sampling_rate_hz) for k in (0, 1))
            signal_mv = record.signal_mv[record.leads.index(lead), first:last]
            x_mm = 19.7 + 25 * (
                column_s * column + np.arange(signal_mv.size) / record.sampling_rate_hz
            )
            axes.plot(x_mm, zero_mm - 10 * signal_mv, "#141620", lw=0.7)
            axes.text(21.2 + 25 * column_s * column, zero_mm - 6, lead, fontsize=11)


if __name__ == "__main__":
    from gem_jax.usage import bind

    sys.exit(bind(main, sys.argv[1:], "python -m benchmarks.pages")())
