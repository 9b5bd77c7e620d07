"""What stands where on an ECG page, in millimetres of paper: columns, rows, zero lines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from data_prep.records import Record

PAGE_S = 10.0

MARGIN_MM = 4.7
HEADER_MM = 13.0
FOOT_MM = 7.9
CALIBRATION_MM = 15.0
TAIL_MM = 5.0
LABEL_MM = 4.3
LABEL_LEFT_MM = 1.5
# Paper kept free above and below each trace, so that neighbouring rows never touch.
CLEARANCE_MM = 1.5
# A row's zero line lies a little below its middle: most deflections point up.
ZERO_AT = 0.55
# The name of a lead stands above this much of its trace; with `derived` behind it, above more.
LABEL_WIDTH_MM, DERIVED_WIDTH_MM = 11.0, 22.0


@dataclass(frozen=True)
class Layout:
    """Rows of leads side by side, then rhythm strips over the whole width."""

    rows: tuple[tuple[str, ...], ...]
    rhythm: tuple[str, ...] = ()
    height_mm: float = 195.0


_LIMB = ("I", "II", "III", "aVR", "aVL", "aVF")
_CHEST = ("V1", "V2", "V3", "V4", "V5", "V6")
_BY_THREE = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
LAYOUTS: Mapping[str, Layout] = {
    "3x4+1": Layout(_BY_THREE, ("II",)),
    "6x2": Layout(tuple(zip(_LIMB, _CHEST, strict=True)), height_mm=240.0),
    "12x1": Layout(tuple((lead,) for lead in _LIMB + _CHEST), height_mm=390.0),
    "3x4+3": Layout(_BY_THREE, ("V1", "II", "V5"), height_mm=250.0),
}


@dataclass(frozen=True)
class Trace:
    """One panel's stretch of signal in mm: x from the page's left edge, y up from the zero line.

    `zero_mv` is the voltage on the zero line; without a signal x and y are empty. On either side
    there is one sample more than the panel shows, so that the line reaches its edges.
    """

    name: str
    lead: str
    row: int
    left_mm: float
    width_mm: float
    start_s: float
    end_s: float
    zero_mv: float
    x_mm: Float[np.ndarray, " T"]
    y_mm: Float[np.ndarray, " T"]
    label_mm: float


@dataclass(frozen=True)
class Row:
    """Edges and zero line of a row, from the top of the page."""

    top_mm: float
    zero_mm: float
    bottom_mm: float

    @property
    def drawn_mm(self) -> tuple[float, float]:
        """Between these a trace is drawn, and cut beyond."""
        return self.top_mm + CLEARANCE_MM / 2, self.bottom_mm - CLEARANCE_MM / 2


def traces_of(record: Record, plan: Layout, speed: float, gain: float) -> list[Trace]:
    """Traces of all panels: consecutive columns, moved back where a short record would end."""
    signals = _signals(record)
    shown_s = min(record.duration_s, PAGE_S)
    traces = []
    for row, leads in enumerate(plan.rows + tuple((lead,) for lead in plan.rhythm)):
        column_s = PAGE_S / len(leads)
        for column, lead in enumerate(leads):
            name = lead if row < len(plan.rows) else f"{lead}_rhythm"
            start_s = min(column * column_s, max(0.0, shown_s - column_s))
            left_mm = MARGIN_MM + CALIBRATION_MM + column * column_s * speed
            zero_mv, signal_mv = signals.get(lead, (0.0, np.empty(0, np.float32)))
            rate_hz = record.sampling_rate_hz
            first = max(0, math.ceil(start_s * rate_hz - 1e-6) - 1)
            end_s = start_s + column_s
            values_mv = signal_mv[first : math.floor(end_s * rate_hz + 1e-6) + 2]
            x_mm = left_mm + (np.arange(first, first + values_mv.size) / rate_hz - start_s) * speed
            y_mm = (values_mv - zero_mv).astype(np.float64) * gain
            label_mm = _label_mm(x_mm - left_mm, y_mm, _label_width_mm(lead in record.derived))
            place = (row, left_mm, column_s * speed, start_s, end_s, zero_mv)
            traces.append(Trace(name, lead, *place, x_mm, y_mm, label_mm))
    return traces


def _label_width_mm(derived: bool) -> float:
    return DERIVED_WIDTH_MM if derived else LABEL_WIDTH_MM


def _label_mm(
    x_mm: Float[np.ndarray, " T"], y_mm: Float[np.ndarray, " T"], width_mm: float
) -> float:
    """Height of the line that the lead's name stands on: above what is drawn beneath it."""
    beneath_mm = y_mm[x_mm < width_mm]
    beneath_mm = beneath_mm[np.isfinite(beneath_mm)]
    return max(5.0, float(beneath_mm.max(initial=0.0)) + 1.5)


def label_place(trace: Trace, row: Row, derived: bool) -> tuple[float, float]:
    """Where the lead's name begins: x from the panel's left edge, and height of its line, in mm.

    That is at the panel's beginning, unless the row is too low there: then where there is room.
    """
    room_mm = row.zero_mm - row.top_mm - LABEL_MM
    width_mm = _label_width_mm(derived)
    for left_mm in np.arange(0.0, max(1.0, trace.width_mm - width_mm), 2.0).tolist():
        here = trace.x_mm >= trace.left_mm + left_mm
        x_mm = trace.x_mm[here] - trace.left_mm - left_mm
        height_mm = _label_mm(x_mm, trace.y_mm[here], width_mm)
        if height_mm <= room_mm:
            return left_mm + LABEL_LEFT_MM, height_mm
    return LABEL_LEFT_MM, min(trace.label_mm, room_mm)


def _signals(record: Record) -> dict[str, tuple[float, Float[np.ndarray, " T"]]]:
    """Median in mV and first 10 s of each lead that has any signal."""
    signals = {}
    first = record.signal_mv[:, : math.floor(PAGE_S * record.sampling_rate_hz) + 2]
    for lead, signal_mv in zip(record.leads, first, strict=True):
        # One sample in four is enough for a median.
        known_mv = signal_mv[::4][np.isfinite(signal_mv[::4])]
        if known_mv.size:
            signals[lead] = (float(np.median(known_mv)), signal_mv)
    return signals


def share_height(traces: list[Trace], gain: float, height_mm: float) -> list[Row]:
    """Rows of equal height, unless a trace needs more than its share."""
    count = traces[-1].row + 1
    up, down = np.full(count, float(gain)), np.full(count, 3.0)
    for trace in traces:
        known_mm = trace.y_mm[np.isfinite(trace.y_mm)]
        above_mm = max(float(known_mm.max(initial=0.0)), trace.label_mm + LABEL_MM)
        up[trace.row] = max(up[trace.row], above_mm)
        down[trace.row] = max(down[trace.row], -float(known_mm.min(initial=0.0)))
    up, down = up + CLEARANCE_MM, down + CLEARANCE_MM
    heights = np.full(count, height_mm / count)
    above = heights * ZERO_AT
    if (up > above).any() or (down > heights - above).any():
        heights = _fair_shares(up + down, height_mm)
        pairs = zip(np.stack([up, down], axis=1), heights.tolist(), strict=True)
        above = np.array([_fair_shares(needs, height)[0] for needs, height in pairs])
    edges = np.concatenate([[0.0], np.cumsum(heights)])
    # Whole millimetres put the zero lines onto the grid.
    zeros = np.round(edges[:-1] + above)
    places = np.stack([edges[:-1], zeros, edges[1:]], axis=1) + HEADER_MM
    return [Row(*place) for place in places.tolist()]


def _fair_shares(needs: Float[np.ndarray, " R"], total: float) -> Float[np.ndarray, " R"]:
    """Shares of `total`: every need met if all can be, else the largest needs are cut first."""
    shares, left = np.empty_like(needs), total
    for done, row in enumerate(np.argsort(needs, kind="stable").tolist()):
        shares[row] = min(needs[row], left / (len(needs) - done))
        left -= shares[row]
    return shares + left / len(needs)
