"""Reads a trace off a clean page by its ink, the way a digitiser does; for tests."""

from __future__ import annotations

import numpy as np

from data_prep.page import Page
from data_prep.records import Record

# Darker than this no grid line and no alarm is, only ink.
INK_LEVEL = 110


def trace_of(page: Page, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Times in s and voltages in mV of a panel, one a column of pixels; NaN without ink."""
    level = np.asarray(page.image.convert("L")).astype(float)
    ink = np.where(level < INK_LEVEL, 255 - level, 0.0)
    if name in page.labels:
        x0, y0, x1, y1 = (round(edge) for edge in page.labels[name])
        ink[y0 : y1 + 1, x0 : x1 + 1] = 0.0
    x0, y0, x1, y1 = page.boxes[name]
    columns = np.arange(int(np.ceil(x0)), int(np.ceil(x1)))
    rows = np.arange(int(np.ceil(y0)), int(np.ceil(y1)))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    with np.errstate(invalid="ignore"):
        middle = (ink * rows[:, None]).sum(axis=0) / ink.sum(axis=0)
    panel = page.panels[name]
    time_s = panel.start_s + (columns - panel.x_px) / page.px_per_s
    return time_s, (panel.y_px - middle) / page.px_per_mv


def rmse_mv(page: Page, name: str, record: Record) -> float:
    """Root mean square of what was read off a panel against the record, column by column."""
    time_s, read_mv = trace_of(page, name)
    signal_mv = record.signal_mv[record.leads.index(page.panels[name].lead)]
    at_s = np.arange(signal_mv.size) / record.sampling_rate_hz
    true_mv = np.interp(time_s, at_s, signal_mv, left=np.nan, right=np.nan)
    assert np.isfinite(read_mv[np.isfinite(true_mv)]).mean() > 0.99, f"{name}: columns without ink"
    return float(np.sqrt(np.nanmean((read_mv - true_mv) ** 2)))
