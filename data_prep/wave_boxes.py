"""Where the waves of each heartbeat lie on the page: their boxes, and colours for a person."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from data_prep.layout import Row, Trace
from data_prep.page import Beat, Box
from data_prep.paper import Colour, Paper
from data_prep.waves import Waves

# The three fiducials of each wave in Waves.samples.
WAVES = {"p": slice(0, 3), "qrs": slice(3, 6), "t": slice(6, 9)}
COLOURS: dict[str, Colour] = {"p": (0, 98, 190), "qrs": (190, 30, 60), "t": (0, 120, 62)}
# Coloured paper above and below a wave, and the line of its peak above that.
MARGIN_MM = 1.5
PEAK_MM = 1.3
MARK_MM = MARGIN_MM + PEAK_MM


@dataclass(frozen=True)
class Stretch:
    """A wave's part of a panel in mm of paper: its ends, its extent, and its marks in the panel."""

    beat: int
    wave: str
    left_mm: float
    right_mm: float
    top_mm: float
    bottom_mm: float
    bounds_mm: tuple[float, ...]
    peak_mm: float | None


def stretches(trace: Trace, row: Row, waves: Waves, speed: float) -> Iterator[Stretch]:
    """The waves that are seen in a panel, in order; what has only a peak is as wide as a line.

    A wave that begins or ends beyond the panel is seen from or to its edge; without any sample
    there, it is not seen.
    """
    if trace.lead not in waves.leads or not trace.x_mm.size:
        return
    marks_s = waves.samples[waves.leads.index(trace.lead)] / waves.sampling_rate_hz
    places_mm = trace.left_mm + (marks_s - trace.start_s) * speed
    y_mm = np.clip(row.zero_mm - trace.y_mm, *row.drawn_mm)
    for beat, places in enumerate(places_mm.tolist()):
        for wave, of_wave in WAVES.items():
            seen = _stretch(trace, y_mm, beat, wave, places[of_wave])
            if seen is not None:
                yield seen


def _stretch(
    trace: Trace, y_mm: Float[np.ndarray, " T"], beat: int, wave: str, places_mm: list[float]
) -> Stretch | None:
    """A wave of onset, peak and offset at these places (NaN: absent); None if it is not seen."""
    left_mm, right_mm = trace.left_mm, trace.left_mm + trace.width_mm
    known = [x for x in places_mm if x == x]
    if not known or known[-1] < left_mm or known[0] >= right_mm:
        return None
    start_mm, end_mm = max(known[0], left_mm), min(known[-1], right_mm)
    top_mm, bottom_mm = _extent(trace.x_mm, y_mm, start_mm, end_mm)
    if math.isnan(top_mm):
        return None
    onset, peak, offset = (x if left_mm <= x < right_mm else None for x in places_mm)
    bounds = tuple(x for x in (onset, offset) if x is not None)
    return Stretch(beat, wave, start_mm, end_mm, top_mm, bottom_mm, bounds, peak)


def _extent(
    x_mm: Float[np.ndarray, " T"], y_mm: Float[np.ndarray, " T"], left_mm: float, right_mm: float
) -> tuple[float, float]:
    """Smallest and largest y from left to right; NaN where there is no sample."""
    inside = y_mm[np.searchsorted(x_mm, left_mm) : np.searchsorted(x_mm, right_mm, "right")]
    ends = np.interp([left_mm, right_mm], x_mm, y_mm, left=np.nan, right=np.nan)
    line = np.concatenate([inside, ends])
    return float(np.fmin.reduce(line)), float(np.fmax.reduce(line))


def beats_of(seen: list[Stretch], paper: Paper) -> tuple[Beat, ...]:
    """The heartbeats of a panel with the boxes of their waves."""
    boxes: dict[int, dict[str, Box]] = {}
    pad_px = paper.pen_px[1] / 2
    for part in seen:
        x0, y0 = paper.pixel(part.left_mm, part.top_mm)
        x1, y1 = paper.pixel(part.right_mm, part.bottom_mm)
        boxes.setdefault(part.beat, {})[part.wave] = (x0, y0 - pad_px, x1, y1 + pad_px)
    return tuple(Beat(beat, _around(waves), waves) for beat, waves in boxes.items())


def _around(boxes: dict[str, Box]) -> Box:
    x0, y0, x1, y1 = zip(*boxes.values(), strict=True)
    return min(x0), min(y0), max(x1), max(y1)


def tint(paper: Paper, seen: list[Stretch]) -> None:
    """Colours the paper under each wave, before the trace is drawn."""
    for part in seen:
        top_mm, bottom_mm = part.top_mm - MARGIN_MM, part.bottom_mm + MARGIN_MM
        paper.tint((part.left_mm, top_mm, part.right_mm, bottom_mm), COLOURS[part.wave])


def mark(paper: Paper, trace: Trace, y_mm: Float[np.ndarray, " T"], seen: list[Stretch]) -> None:
    """Draws each wave in its colour, with lines at onset and offset and a short one at the peak."""
    for part in seen:
        colour = COLOURS[part.wave]
        top_mm, bottom_mm = part.top_mm - MARGIN_MM, part.bottom_mm + MARGIN_MM
        paper.trace(trace.x_mm, y_mm, (part.left_mm, part.right_mm), colour)
        for x_mm in part.bounds_mm:
            paper.upright(x_mm, top_mm, bottom_mm, colour)
        if part.peak_mm is not None:
            paper.upright(part.peak_mm, top_mm - PEAK_MM, top_mm, colour)
