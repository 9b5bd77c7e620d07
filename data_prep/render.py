"""Draws the printed ECG page: leads in rows and columns, rhythm strips, calibration, scale."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from data_prep.files import write_whole
from data_prep.layout import (
    CALIBRATION_MM,
    FOOT_MM,
    HEADER_MM,
    LABEL_MM,
    LAYOUTS,
    MARGIN_MM,
    PAGE_S,
    TAIL_MM,
    Row,
    Trace,
    label_place,
    share_height,
    traces_of,
)
from data_prep.page import Box, Page, Panel
from data_prep.paper import ALARM, FAINT, INK, Paper, sheet
from data_prep.readers.stated import names_in
from data_prep.records import BadInput, Reading, Record, read
from data_prep.wave_boxes import COLOURS, MARK_MM, Stretch, beats_of, mark, stretches, tint
from data_prep.waves import Waves, find_waves

HEADER_TEXT_MM = 3.5
ARROW_MM = 2.0
# Of one page: what fits into the memory of a small machine.
MOST_PX = 120e6


def render(
    record: Record,
    layout: str = "3x4+1",
    speed_mm_per_s: float | int = 25,
    gain_mm_per_mv: float | int = 10,
    dpi: float | int = 200,
    *,
    waves: Waves | None = None,
    marks: bool = False,
) -> Page:
    """Page with the first 10 s of `record`; at 200 dpi it is 2200 x 1700 pixels.

    A trace is drawn around its own median, as an AC-coupled recorder draws it. Rows give each
    other room for tall complexes; what still does not fit is cut at the row's edge, marked there
    and named in the header. The size of a page depends on layout, scale and dpi only.

    Args:
        record: What is drawn.
        layout: One of LAYOUTS.
        speed_mm_per_s: Paper speed.
        gain_mm_per_mv: Height of 1 mV.
        dpi: Pixels an inch of paper.
        waves: Its waves; the page then has the boxes of beats and waves too.
        marks: Draw the waves in colours, for a person who wants to see what was found.

    Raises:
        BadInput: unknown layout, or a speed, gain or resolution that gives no page.
        ValueError: marks without waves.
    """
    if marks and waves is None:
        raise ValueError("marks: got no waves, expected the waves that are to be drawn")
    speed, gain, dpi = float(speed_mm_per_s), float(gain_mm_per_mv), float(dpi)
    _check_arguments(layout, speed, gain, dpi)
    plan = LAYOUTS[layout]
    traces = traces_of(record, plan, speed, gain)
    height_mm = _height_mm(layout, gain)
    rows = share_height(traces, gain, height_mm)
    paper = _blank(PAGE_S * speed, height_mm, dpi / 25.4)
    seen = {
        t.name: list(stretches(t, rows[t.row], waves, speed)) if waves is not None else []
        for t in traces
    }
    cut = _draw_traces(paper, traces, rows, gain, seen if marks else {})
    above_mm = MARK_MM if marks else 0.0
    labels = {t.name: _label(paper, t, rows[t.row], record, above_mm) for t in traces}
    _header(paper, record, (layout, speed, gain), cut, marks)
    return Page(
        paper.image,
        {t.name: _panel(paper, t, rows[t.row], record, gain) for t in traces},
        dpi / 25.4,
        speed,
        gain,
        layout,
        tuple(cut),
        labels={name: box for name, box in labels.items() if box is not None},
        beats={name: beats_of(parts, paper) for name, parts in seen.items() if waves is not None},
    )


def _check_arguments(layout: str, speed: float, gain: float, dpi: float) -> None:
    if layout not in LAYOUTS:
        raise BadInput(f"layout: got {layout!r}, expected one of {', '.join(LAYOUTS)}")
    limits = (("speed", speed, 5, 200), ("gain", gain, 1, 100), ("dpi", dpi, 20, 600))
    for field, value, low, high in limits:
        if not low <= value <= high:
            raise BadInput(f"{field}: got {value:g}, expected a number from {low} to {high}")
    width_mm = PAGE_S * speed + 2 * MARGIN_MM + CALIBRATION_MM + TAIL_MM
    pixels = width_mm * (_height_mm(layout, gain) + HEADER_MM + FOOT_MM) * (dpi / 25.4) ** 2
    if pixels > MOST_PX:
        raise BadInput(
            f"dpi: got {dpi:g}, which at this speed, gain and layout gives {pixels / 1e6:.0f} "
            f"million pixels, expected {MOST_PX / 1e6:.0f} million at most; lower one of them"
        )


def _height_mm(layout: str, gain: float) -> float:
    return LAYOUTS[layout].height_mm * max(1.0, gain / 10)


def _blank(trace_mm: float, height_mm: float, px_per_mm: float) -> Paper:
    right_mm = MARGIN_MM + CALIBRATION_MM + trace_mm + TAIL_MM
    size_mm = (right_mm + MARGIN_MM, HEADER_MM + height_mm + FOOT_MM)
    grid_mm = (MARGIN_MM, HEADER_MM, right_mm, HEADER_MM + height_mm)
    return Paper(sheet(size_mm, grid_mm, px_per_mm), px_per_mm)


def _draw_traces(
    paper: Paper,
    traces: list[Trace],
    rows: list[Row],
    gain: float,
    marked: Mapping[str, list[Stretch]],
) -> list[str]:
    """Names of the panels whose trace, drawn now, was cut at the edge of its row."""
    for row in rows:
        x_mm, y_mm = _calibration(row.zero_mm, gain)
        paper.trace(x_mm, y_mm, (x_mm[0], x_mm[-1]))
    cut = []
    for trace in traces:
        row = rows[trace.row]
        whole_mm = row.zero_mm - trace.y_mm
        y_mm = np.clip(whole_mm, *row.drawn_mm)
        seen = marked.get(trace.name, [])
        tint(paper, seen)
        paper.trace(trace.x_mm, y_mm, (trace.left_mm, trace.left_mm + trace.width_mm))
        mark(paper, trace, y_mm, seen)
        if _arrows(paper, trace, row, whole_mm):
            cut.append(trace.name)
    return cut


def _arrows(paper: Paper, trace: Trace, row: Row, y_mm: Float[np.ndarray, " T"]) -> bool:
    """Whether the trace leaves its row; there it has arrows now, one a complex."""
    cut = False
    for edge_mm, beyond, length_mm in (
        (row.drawn_mm[0], y_mm < row.drawn_mm[0], ARROW_MM),
        (row.drawn_mm[1], y_mm > row.drawn_mm[1], -ARROW_MM),
    ):
        last_mm = -np.inf
        for x_mm in trace.x_mm[beyond].tolist():
            if trace.left_mm <= x_mm < trace.left_mm + trace.width_mm:
                if x_mm - last_mm > 2 * ARROW_MM:
                    paper.arrow(x_mm, edge_mm, length_mm)
                    cut = True
                last_mm = x_mm
    return cut


def _calibration(
    zero_mm: float, gain: float
) -> tuple[Float[np.ndarray, " 6"], Float[np.ndarray, " 6"]]:
    """The pulse of 1 mV and 5 mm between two short stretches of zero line."""
    x_mm = MARGIN_MM + np.array([3.0, 5.0, 5.0, 10.0, 10.0, 12.0])
    return x_mm, zero_mm - gain * np.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])


def _label(paper: Paper, trace: Trace, row: Row, record: Record, above_mm: float) -> Box | None:
    """Writes the lead's name, and why there is no trace; returns their box."""
    silent = not np.isfinite(trace.y_mm).any()
    if not (silent or paper.legible(LABEL_MM)):
        return None
    aside_mm, up_mm = label_place(trace, row, trace.lead in record.derived)
    left_mm, y_mm = (
        trace.left_mm + aside_mm,
        max(row.top_mm + LABEL_MM, row.zero_mm - up_mm - above_mm),
    )
    end_mm = paper.text(trace.lead, left_mm, y_mm, LABEL_MM, INK)
    if silent:
        missing = "missing" if trace.lead not in record.leads else "no signal"
        end_mm = paper.text(missing, end_mm + 1.5, y_mm, LABEL_MM, ALARM)
    elif trace.lead in record.derived:
        end_mm = paper.text("derived", end_mm + 1.5, y_mm, 0.75 * LABEL_MM, FAINT)
    x0, y0 = paper.pixel(left_mm, y_mm - LABEL_MM)
    x1, y1 = paper.pixel(end_mm, y_mm + 0.25 * LABEL_MM)
    return x0, y0, x1, y1


def _header(
    paper: Paper, record: Record, scale: tuple[str, float, float], cut: list[str], marks: bool
) -> None:
    """Writes scale, rate and length; nothing of it identifies a person."""
    if not paper.legible(HEADER_TEXT_MM):
        return
    layout, speed, gain = scale
    length = f"{record.duration_s:.1f} s"
    if record.duration_s > PAGE_S + 0.05:
        length = f"first {PAGE_S:g} s of {length}"
    alarms = [] if record.calibrated else ["amplitudes not calibrated"]
    if cut:
        names = ", ".join(cut).replace("_", " ") if len(cut) < 9 else f"{len(cut)} leads"
        alarms.append(f"cut at the row's edge: {names}")
    facts = (f"{speed:g} mm/s", f"{gain:g} mm/mV", f"{record.sampling_rate_hz:g} Hz", "filter none")
    y_mm = HEADER_MM - 3.5
    end_mm = paper.text("   ".join(facts), MARGIN_MM, y_mm, HEADER_TEXT_MM, INK) + 6
    if marks:
        for wave, colour in COLOURS.items():
            end_mm = paper.text(wave.upper(), end_mm, y_mm, HEADER_TEXT_MM, colour) + 3
    paper.text("   ".join(alarms), end_mm + 3 * marks, y_mm, HEADER_TEXT_MM, ALARM)
    paper.text(f"{layout}   {length}", -MARGIN_MM, y_mm, HEADER_TEXT_MM, INK)


def _panel(paper: Paper, trace: Trace, row: Row, record: Record, gain: float) -> Panel:
    x0, y0 = paper.pixel(trace.left_mm, row.top_mm)
    x1, y1 = paper.pixel(trace.left_mm + trace.width_mm, row.bottom_mm)
    _, y_px = paper.pixel(trace.left_mm, row.zero_mm + trace.zero_mv * gain)
    end_s = min(trace.end_s, record.duration_s)
    return Panel(trace.lead, (x0, y0, x1, y1), trace.start_s, end_s, x0, y_px)


def main(
    record: Path,
    *,
    out: Path,
    layout: Literal["3x4+1", "6x2", "12x1", "3x4+3"] = "3x4+1",
    speed: Literal[25, 50] = 25,
    gain: Literal[5, 10, 20] = 10,
    dpi: int = 200,
    boxes: Path | None = None,
    marks: bool = False,
    degrade: int | None = None,
    rate: float | None = None,
    unit: str | None = None,
    leads: str = "",
) -> int:
    """Draw a record as a printed ECG page.

    Args:
        record: The record: a path with or without suffix.
        out: PNG file to write.
        layout: Rows x columns of leads, + rhythm strips.
        speed: Paper speed in mm/s.
        gain: Height of 1 mV in mm.
        dpi: Pixels an inch of paper; 200 gives 2200 x 1700 pixels.
        boxes: JSON file to write with the pixel box of each lead, beat and wave, and the map
            from pixels to time and voltage; docs/README.md describes it.
        marks: Draw P, QRS and T as they were found, in colours.
        degrade: Seed of a photograph of the page: crumpled, stained, askew. The boxes follow.
        rate: Samples a second of a table or array (.csv, .npy) that does not state it.
        unit: Its unit if it does not state it: mV, uV, nV or V.
        leads: The names of its columns if it does not state them, in one word: I,II,V1.
    """
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out: got {out}, expected a name that ends in .png; the page is a PNG")
    shown = read(record, Reading(rate, names_in(leads), unit))
    waves = find_waves(shown) if boxes is not None or marks else None
    page = render(shown, layout, speed, gain, dpi, waves=waves, marks=marks)
    if degrade is not None:
        from data_prep.degrade import degrade as photograph

        page = photograph(page, degrade)
    write_whole(out, page.png())
    if boxes is not None:
        write_whole(boxes, (json.dumps(page.to_json(), indent=1) + "\n").encode())
    return 0
