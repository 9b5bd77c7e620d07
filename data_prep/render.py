"""Draws the printed ECG page: leads in rows and columns, rhythm strips, calibration, scale."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from data_prep.files import write_whole
from data_prep.layout import (
    CALIBRATION_MM,
    CLEARANCE_MM,
    FOOT_MM,
    HEADER_MM,
    LABEL_MM,
    LAYOUTS,
    MARGIN_MM,
    PAGE_S,
    TAIL_MM,
    Row,
    Trace,
    share_height,
    traces_of,
)
from data_prep.page import Page, Panel
from data_prep.paper import ALARM, FAINT, INK, Paper, sheet
from data_prep.records import BadInput, Reading, Record, read

HEADER_TEXT_MM = 3.5


def render(
    record: Record,
    layout: str = "3x4+1",
    speed_mm_per_s: float | int = 25,
    gain_mm_per_mv: float | int = 10,
    dpi: float | int = 200,
) -> Page:
    """Page with the first 10 s of `record`; at 200 dpi it is 2200 x 1700 pixels.

    A trace is drawn around its own median, as an AC-coupled recorder draws it. Rows give each
    other room for tall complexes; what still does not fit is cut at the row's edge, marked there
    and named in the header. The size of a page depends on layout, scale and dpi only.

    Raises:
        BadInput: unknown layout, or a speed, gain or resolution that gives no page.
    """
    speed, gain, dpi = float(speed_mm_per_s), float(gain_mm_per_mv), float(dpi)
    _check_arguments(layout, speed, gain, dpi)
    plan = LAYOUTS[layout]
    traces = traces_of(record, plan, speed, gain)
    height_mm = plan.height_mm * max(1.0, gain / 10)
    rows = share_height(traces, gain, height_mm)
    paper = _blank(PAGE_S * speed, height_mm, dpi / 25.4)
    cut = _draw_traces(paper, traces, rows, gain)
    for trace in traces:
        _label(paper, trace, rows[trace.row], record)
    _header(paper, record, (layout, speed, gain), cut)
    panels = {t.name: _panel(paper, t, rows[t.row], record, gain) for t in traces}
    return Page(paper.image, panels, dpi / 25.4, speed, gain, layout, tuple(cut))


def _check_arguments(layout: str, speed: float, gain: float, dpi: float) -> None:
    if layout not in LAYOUTS:
        raise BadInput(f"layout: got {layout!r}, expected one of {', '.join(LAYOUTS)}")
    limits = (("speed", speed, 5, 200), ("gain", gain, 1, 100), ("dpi", dpi, 20, 600))
    for field, value, low, high in limits:
        if not low <= value <= high:
            raise BadInput(f"{field}: got {value:g}, expected a number from {low} to {high}")


def _blank(trace_mm: float, height_mm: float, px_per_mm: float) -> Paper:
    right_mm = MARGIN_MM + CALIBRATION_MM + trace_mm + TAIL_MM
    size_mm = (right_mm + MARGIN_MM, HEADER_MM + height_mm + FOOT_MM)
    grid_mm = (MARGIN_MM, HEADER_MM, right_mm, HEADER_MM + height_mm)
    return Paper(sheet(size_mm, grid_mm, px_per_mm).copy(), px_per_mm)


def _draw_traces(paper: Paper, traces: list[Trace], rows: list[Row], gain: float) -> list[str]:
    """Names of the panels whose trace, drawn now, was cut at the edge of its row."""
    for row in rows:
        paper.polyline(_calibration(row.zero_mm, gain))
    cut = []
    for trace in traces:
        row = rows[trace.row]
        low, high = row.top_mm + CLEARANCE_MM / 2, row.bottom_mm - CLEARANCE_MM / 2
        y = row.zero_mm - trace.y_mm
        points = np.stack([trace.x_mm, np.clip(y, low, high)], axis=1)
        for run in _runs(np.isfinite(y)):
            paper.polyline(points[run])
        beyond = (low, y < low, 2.0), (high, y > high, -2.0)
        for edge, where, length_mm in beyond:
            if where.any():
                paper.arrow(float(trace.x_mm[where.argmax()]), edge, length_mm)
        if any(where.any() for _, where, _ in beyond):
            cut.append(trace.name)
    paper.ink()
    return cut


def _calibration(zero_mm: float, gain: float) -> Float[np.ndarray, "6 2"]:
    """The pulse of 1 mV and 5 mm between two short stretches of zero line."""
    x = MARGIN_MM + np.array([3.0, 5.0, 5.0, 10.0, 10.0, 12.0])
    y = zero_mm - gain * np.array([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    return np.stack([x, y], axis=1)


def _runs(known: np.ndarray) -> Iterator[slice]:
    """The stretches of true values."""
    edges = np.flatnonzero(known[1:] != known[:-1]) + 1
    edges = np.concatenate([[0], edges, [known.size]])[int(not known[:1].any()) :]
    for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=False):
        yield slice(start, stop)


def _label(paper: Paper, trace: Trace, row: Row, record: Record) -> None:
    """Writes the lead's name, and why there is no trace."""
    silent = not np.isfinite(trace.y_mm).any()
    if not (silent or paper.legible(LABEL_MM)):
        return
    y_mm = max(row.top_mm + LABEL_MM, row.zero_mm - trace.label_mm)
    end_mm = paper.text(trace.lead, trace.left_mm + 1.5, y_mm, LABEL_MM, INK)
    if silent:
        missing = "missing" if trace.lead not in record.leads else "no signal"
        paper.text(missing, end_mm + 1.5, y_mm, LABEL_MM, ALARM)
    elif trace.lead in record.derived:
        paper.text("derived", end_mm + 1.5, y_mm, 0.75 * LABEL_MM, FAINT)


def _header(paper: Paper, record: Record, scale: tuple[str, float, float], cut: list[str]) -> None:
    """Writes scale, rate and length; nothing of it identifies a person."""
    if not paper.legible(HEADER_TEXT_MM):
        return
    layout, speed, gain = scale
    length = f"{record.duration_s:.1f} s"
    if record.duration_s > PAGE_S + 0.05:
        length = f"first {PAGE_S:g} s of {length}"
    alarms = [] if record.calibrated else ["amplitudes not calibrated"]
    if cut:
        alarms.append("cut at the row's edge: " + ", ".join(cut).replace("_", " "))
    facts = (f"{speed:g} mm/s", f"{gain:g} mm/mV", f"{record.sampling_rate_hz:g} Hz", "filter none")
    y_mm = HEADER_MM - 3.5
    end_mm = paper.text("   ".join(facts), MARGIN_MM, y_mm, HEADER_TEXT_MM, INK)
    paper.text("   ".join(alarms), end_mm + 6, y_mm, HEADER_TEXT_MM, ALARM)
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
    rate: float | None = None,
    unit: str | None = None,
    leads: tuple[str, ...] = (),
) -> int:
    """Draw a record as a printed ECG page.

    Args:
        record: The record: a path with or without suffix.
        out: PNG file to write.
        layout: Rows x columns of leads, + rhythm strips.
        speed: Paper speed in mm/s.
        gain: Height of 1 mV in mm.
        dpi: Pixels an inch of paper; 200 gives 2200 x 1700 pixels.
        boxes: JSON file to write with the pixel box of each lead and the scale.
        rate: Samples a second of a table or array (.csv, .npy) that does not state it.
        unit: Its unit if it does not state it: mV, uV, nV or V.
        leads: The names of its columns if it does not state them.
    """
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out: got {out}, expected a name that ends in .png; the page is a PNG")
    page = render(read(record, Reading(rate, leads, unit)), layout, speed, gain, dpi)
    write_whole(out, page.png())
    if boxes is not None:
        write_whole(boxes, (json.dumps(page.to_json(), indent=1) + "\n").encode())
    return 0
